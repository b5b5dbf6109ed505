# Shared by the scripts in this folder; sourced, never run.
# shellcheck shell=bash

# say TEXT: prints a line that stands out among the output of the tools.
say() { printf '== %s\n' "$*"; }

# die TEXT: prints the reason and exits.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# postgres_bin: prints the directory of PostgreSQL's server programs; fails silently if there is none. Searches
# PGARK_TEST_PG_BIN, then Debian's directories (newest version first), then pg_config, then the PATH.
postgres_bin() {
    local candidate
    if [[ -n ${PGARK_TEST_PG_BIN:-} ]]; then
        [[ -x $PGARK_TEST_PG_BIN/postgres ]] || die "PGARK_TEST_PG_BIN=\"$PGARK_TEST_PG_BIN\" holds no program named postgres"
        printf '%s\n' "$PGARK_TEST_PG_BIN"
        return
    fi
    while read -r candidate; do
        if [[ -x $candidate/postgres && -x $candidate/initdb ]]; then
            printf '%s\n' "$candidate"
            return
        fi
    done < <(
        printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV
        if have pg_config; then pg_config --bindir; fi
        if have postgres; then dirname "$(command -v postgres)"; fi
    )
    return 1
}

# apt_install PACKAGE...: installs packages, or lists the missing ones if it lacks the permission.
apt_install() {
    have apt-get || die "missing, and there is no apt-get here: $*"
    [[ $(id -u) == 0 ]] || die "missing packages, install them as root first: apt-get install $*"
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1
    if [[ -z ${apt_lists_are_fresh:-} ]]; then
        apt-get update -qq
        apt_lists_are_fresh=yes
    fi
    apt-get install -qq -y --no-install-recommends "$@" </dev/null >/dev/null
}

# install_postgres: installs the distribution's PostgreSQL if there is none, without the cluster that Debian's package
# creates.
install_postgres() {
    postgres_bin >/dev/null && return
    local settings=/etc/postgresql-common/createcluster.conf
    if [[ $(id -u) == 0 ]] && ! grep -qs '^ *create_main_cluster' "$settings"; then
        mkdir -p "${settings%/*}"
        printf 'create_main_cluster = false\n' >>"$settings"
    fi
    apt_install postgresql
    postgres_bin >/dev/null || die "postgresql is installed, but its programs were not found: set PGARK_TEST_PG_BIN"
}

# install_tools: installs the other requirements of the build and the tests.
install_tools() {
    local missing=()
    have cc || missing+=(gcc libc6-dev)
    have lz4 || missing+=(lz4)
    have zstd || missing+=(zstd)
    have strace || missing+=(strace)
    have openssl || missing+=(openssl)
    compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || missing+=(faketime)
    ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
}

# build_programs: builds the three programs as released.
build_programs() {
    say "building pgark"
    cargo build --quiet --release --bin pgark
    small_programs=$(build_small "$(static_target)")
    # The benchmarks use this path.
    ln -sfn "${small_programs#target-small/}" target-small/built
}

# build_small [TARGET]: builds the two small programs; prints their directory.
build_small() {
    cargo build --quiet --profile small --no-default-features --bin archive-push --bin archive-get \
        --target-dir target-small ${1:+--target "$1"} >&2
    printf '%s\n' "target-small/${1:+$1/}small"
}

# static_target: prints this machine's target for static programs, which start in half the time because no libraries are
# loaded. Prints nothing if its standard library is not installed and rustup cannot fetch it.
static_target() {
    local target library
    target=$(rustc -vV | sed -n 's/^host: \(.*\)-gnu$/\1-musl/p')
    [[ -n $target ]] || return 0
    library=$(rustc --print target-libdir --target "$target")
    if [[ ! -d $library ]] && have rustup; then
        timeout 120 rustup --quiet target add "$target" >/dev/null 2>&1 || true
    fi
    [[ ! -d $library ]] || printf '%s\n' "$target"
}

# make_place NAME: creates a directory below /tmp with the programs, a repository and a spool. Sets $root, $pg_bin to
# the directory of the server programs, and ${as[@]} to a prefix that runs a command as the owner: servers refuse to run
# as root, and pgark runs as the owner of the data directory.
make_place() {
    root=$(mktemp -d "/tmp/pgark-$1-XXXXXX")
    pg_bin=$(postgres_bin)
    owner=$(id -un)
    as=()
    if [[ $(id -u) == 0 ]]; then
        owner=postgres
        as=(runuser -u postgres --)
    fi
    chmod 755 "$root"
    chown "$owner" "$root"
    install -d -o "$owner" -m 0755 "$root"/{bin,repository,spool,socket}
    repository=$root/repository
    s3_settings=
    install -m 0755 target/release/pgark "$small_programs"/archive-push "$small_programs"/archive-get "$root/bin/"
}

# start_s3: starts an S3 server below $root with a bucket; sets $s3_settings.
start_s3() {
    local variables
    say "an S3 server: Ceph's RADOS Gateway"
    variables=$(scripts/s3-server start "$root/s3")
    eval "$variables"
    printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' \
        "$PGARK_TEST_S3_ACCESS_KEY" "$PGARK_TEST_S3_SECRET_KEY" >"$root/credentials"
    chown "$owner" "$root/credentials"
    chmod 600 "$root/credentials"
    scripts/s3-server bucket "$root/s3" wal-archive
    repository=s3://wal-archive/prod
    s3_settings="s3.endpoint = \"$PGARK_TEST_S3_TLS_ENDPOINT\"
s3.ca_file = \"$PGARK_TEST_S3_TLS_DIRECTORY/ca.pem\"
s3.credentials_file = \"$root/credentials\""
}

# make_cluster NAME: starts a server in $root/data that archives into $repository, with its $root/pgark.toml.
make_cluster() {
    "${as[@]}" "$pg_bin/initdb" -D "$root/data" -U postgres -A trust -E UTF8 --data-checksums >/dev/null
    cat >"$root/pgark.toml" <<TOML
cluster = "$1"
data_directory = "$root/data"
repository.url = "$repository"
$s3_settings
spool.directory = "$root/spool/$1"
connection.conninfo = "host=$root/socket port=5432 user=postgres dbname=postgres"
backup.checkpoint = "fast"
TOML
    cat >>"$root/data/postgresql.conf" <<CONF
listen_addresses = ''
port = 5432
unix_socket_directories = '$root/socket'
archive_mode = on
archive_timeout = 60
archive_command = '$root/bin/archive-push --config $root/pgark.toml %p'
CONF
    "${as[@]}" "$pg_bin/pg_ctl" -D "$root/data" -l "$root/socket/server.log" -w start >/dev/null
}

# stop_everything: stops all processes below $root.
stop_everything() {
    local config data
    for config in "$root"/*.toml; do
        "${as[@]}" "$root/bin/pgark" --config "$config" agent stop >/dev/null 2>&1 || true
    done
    for data in "$root/data" "$root/recovered"; do
        [[ ! -e $data/postmaster.pid ]] || "${as[@]}" "$pg_bin/pg_ctl" -D "$data" -m immediate -w stop >/dev/null 2>&1 || true
    done
    [[ ! -e $root/s3 ]] || scripts/s3-server stop "$root/s3" || true
}

pgark() { "${as[@]}" "$root/bin/pgark" --config "$root/pgark.toml" "$@"; }
sql() { "${as[@]}" psql -XAtq -v ON_ERROR_STOP=1 -h "$root/socket" -p 5432 -U postgres -d postgres -c "$1"; }

# wait_for SECONDS WHAT COMMAND...: waits until the command succeeds.
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < deadline)) || die "waited too long for $what"
        sleep 0.1
    done
}

# archived SEGMENT: whether PostgreSQL reports this segment, or a later one, as archived.
archived() { [[ $(sql "SELECT last_archived_wal >= '$1' FROM pg_stat_archiver") == t ]]; }
