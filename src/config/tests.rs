//! The exact error for every invalid file, and the values of valid ones.

use super::*;
use crate::error::ErrorKind;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

const SMALLEST: &str = "cluster = \"main\"\n\
                        data_directory = \"/var/lib/postgresql/15/main\"\n\
                        repository.url = \"/srv/pgark\"\n";

const SNIPPET: &str = include_str!("../../pg-config-snippets/pgark.toml");
const DOCUMENT: &str = include_str!("../../docs/configuration.md");

fn parse(content: impl AsRef<[u8]>) -> Result<Config> {
    Config::parse(Path::new("/etc/pgark/pgark.toml"), content.as_ref())
}

/// The configuration of a call with `--config`.
fn load(path: &Path) -> Result<Config> {
    Config::resolve(&ConfigRequest { file: Some(path.to_owned()), ..ConfigRequest::default() })
}

/// The configuration of a call with `--repository`.
fn without_file(cluster: &str, repository: &str, data_directory: &Path) -> Result<Config> {
    Config::resolve(&ConfigRequest {
        cluster: Some(cluster.to_owned()),
        repository: Some(repository.to_owned()),
        data_directory: Some(data_directory.to_owned()),
        ..ConfigRequest::default()
    })
}

/// The smallest file with more lines, the first of which is line 4.
fn with(lines: &str) -> Result<Config> {
    parse(format!("{SMALLEST}{lines}\n"))
}

fn report(result: Result<Config>) -> String {
    let error = result.expect_err("the file is wrong");
    assert_eq!(error.kind(), ErrorKind::Usage);
    error.report()
}

/// The message without the hint and the file's name.
fn message(result: Result<Config>) -> String {
    let report = report(result);
    let message = report.lines().next().unwrap();
    message.strip_prefix("\"/etc/pgark/pgark.toml\"").expect("the file is named").to_owned()
}

#[test]
fn three_lines_are_enough() {
    let config = parse(SMALLEST).unwrap();
    assert_eq!(config.path.as_deref(), Some(Path::new("/etc/pgark/pgark.toml")));
    assert_eq!(config.cluster.as_str(), "main");
    assert_eq!(config.data_directory, Path::new("/var/lib/postgresql/15/main"));
    assert_eq!(config.system_identifier, None);
    assert_eq!(config.repository.url, RepositoryUrl::Directory("/srv/pgark".into()));
    assert_eq!(config.connection.conninfo.reveal(), "");
    assert_eq!(config.spool.directory, Path::new("/var/spool/pgark/main"));
    assert_eq!(config.compression, Compression::Lz4);
    assert_eq!(config.push.deadline, Duration::from_secs(60));
    assert_eq!(config.get.deadline, Duration::from_secs(300));
    assert_eq!(config.get.standby_segment_deadline, Duration::from_secs(5));
    assert_eq!(config.get.standby_history_deadline, Duration::from_secs(30));
    assert_eq!(config.get.prefetch_max_bytes, 256 << 20);
    assert_eq!(config.agent.program, None);
    assert_eq!((config.agent.start, config.agent.resident), (AgentStart::Needed, true));
    assert_eq!(config.agent.idle, Duration::from_secs(300));
    assert_eq!(config.agent.retry_max, Duration::from_secs(30));
    assert_eq!(config.agent.workers.get(), 2);
    assert_eq!(config.agent.log_max_bytes, 10 << 20);
    assert_eq!((config.log.destination, config.log.format), (None, LogFormat::Text));
    assert_eq!(config.log.file, Path::new("/var/spool/pgark/main/agent.log"));
    assert_eq!(config.log.level, LogLevel::Info);
    assert_eq!(config.backup.workers.get(), 2);
    assert_eq!(config.backup.wal_deadline, Duration::from_secs(300));
    assert_eq!(config.backup.checkpoint, Checkpoint::Spread);
    assert_eq!(config.backup.chain_max, 30);
    assert_eq!(config.recover.workers.get(), 2);
    let pace = |pace: PaceSettings| (pace.max_rate, pace.niceness.as_u8(), pace.io_priority);
    assert_eq!(pace(config.agent.pace), (None, 0, IoPriority::Normal));
    assert_eq!(pace(config.backup.pace), (None, 10, IoPriority::Low));
    assert_eq!(pace(config.recover.pace), (None, 0, IoPriority::Normal));
}

/// Every key except the required ones, each with a non-default value.
const OTHER_VALUES: [&str; 57] = [
    "system_identifier = 7312345678901234567",
    "assume_version = 18",
    "connection.conninfo = \"host=/tmp\"",
    "connection.standby = \"host=/tmp\"",
    "spool.directory = \"/spool\"",
    "compression.method = \"none\"",
    "compression = { method = \"zstd\", level = 3 }",
    "push.deadline = \"1s\"",
    "get.deadline = \"1s\"",
    "get.standby_segment_deadline = \"1s\"",
    "get.standby_history_deadline = \"1s\"",
    "get.prefetch_max = 0",
    "agent.program = \"/usr/bin/pgark\"",
    "agent.start = \"never\"",
    "agent.resident = false",
    "agent.idle = \"1s\"",
    "agent.retry_max = \"1s\"",
    "agent.workers = 64",
    "agent.log_max = \"1MB\"",
    "agent.nice = 19",
    "agent.io_priority = \"idle\"",
    "log.destination = \"syslog\"",
    "log.file = \"/var/log/pgark.log\"",
    "log.format = \"json\"",
    "log.level = \"debug\"",
    "backup.workers = 64",
    "backup.wal_deadline = \"1s\"",
    "backup.checkpoint = \"fast\"",
    "backup.max_rate = \"50MB\"",
    "backup.nice = 0",
    "backup.io_priority = \"normal\"",
    "backup.chain_max = 100",
    "recover.workers = 64",
    "recover.max_rate = \"50MB\"",
    "recover.prove_wal = \"1MB\"",
    "recover.fork_window = 0",
    "recover.nice = 5",
    "recover.io_priority = \"low\"",
    "s3.region = \"eu-central-1\"",
    "s3.endpoint = \"https://s3.example.com:9000\"",
    "s3.path_style = false",
    "s3.allow_http = true",
    "s3.ca_file = \"/etc/pgark/ca.pem\"",
    "s3.profile = \"pgark\"",
    "s3.credentials_file = \"/etc/pgark/credentials\"",
    "s3.storage_class_wal = \"STANDARD_IA\"",
    "s3.storage_class_backup = \"GLACIER_IR\"",
    "s3.sse = \"AES256\"",
    "s3 = { sse = \"aws:kms\", kms_key_id = \"alias/pgark\" }",
    "s3.tags = \"project=database,stage=production\"",
    "s3.requester_pays = true",
    "s3 = { object_lock_mode = \"GOVERNANCE\", object_lock_retention = \"30d\" }",
    "s3 = { object_lock_mode = \"COMPLIANCE\", object_lock_retention = \"30d\" }",
    "s3.connect_timeout = \"1500ms\"",
    "s3.stall_timeout = \"1s\"",
    "s3.retry_deadline = \"1s\"",
    "s3.part_size = \"16MB\"",
];

#[test]
fn every_key_reaches_a_field_of_its_own() {
    // `settings` and `fingerprint` always differ.
    let fields = |config: Config| {
        let Config { repository, connection, spool, push, get, agent, log, backup, recover, s3, .. } =
            &config;
        let sections = format!("{repository:?}{connection:?}{spool:?}{push:?}{get:?}{agent:?}{backup:?}");
        let single = (config.system_identifier, config.assumed_version, config.compression);
        format!("{sections}{log:?}{recover:?}{s3:?}{single:?}")
    };
    let mut seen = vec![fields(parse(SMALLEST).unwrap())];
    for line in OTHER_VALUES {
        let fields = fields(with(line).unwrap());
        assert!(!seen.contains(&fields), "{line}");
        seen.push(fields);
    }
    let optional = KEYS.iter().filter(|key| !matches!(key.default, keys::DefaultValue::Required));
    assert_eq!(optional.count(), OTHER_VALUES.len(), "a key without an example");
}

#[test]
fn settings_of_a_bucket_must_fit_each_other() {
    assert_eq!(
        message(with("s3.object_lock_mode = \"COMPLIANCE\"")),
        ", line 4: \"s3.object_lock_mode\" needs \"s3.object_lock_retention\""
    );
    for line in [
        "s3.object_lock_retention = \"3d\"",
        "s3.kms_key_id = \"x\"",
        "s3 = { sse = \"AES256\", kms_key_id = \"x\" }",
    ] {
        assert!(message(with(line)).contains("has no meaning without"), "{line}");
    }
    for line in [
        "s3.endpoint = \"https://user:secret@host\"",
        "s3.endpoint = \"s3.example.com\"",
        "s3.tags = \"a\"",
        "s3.tags = \"\"",
        "s3.region = \"\"",
        "s3.allow_http = \"yes\"",
    ] {
        assert!(message(with(line)).contains("must be"), "{line}");
    }
}

#[test]
fn refuses_unknown_keys() {
    assert_eq!(
        report(parse("cluster = \"a\"\n\nrepository.ulr = \"/x\"\n")),
        "\"/etc/pgark/pgark.toml\", line 3: unknown key \"repository.ulr\"\n\
         HINT: Did you mean \"repository.url\"?"
    );
    assert_eq!(
        report(parse("[repositry]\nurl = \"/x\"\n")),
        "\"/etc/pgark/pgark.toml\", line 2: unknown key \"repositry.url\"\n\
         HINT: Did you mean \"repository.url\"?"
    );
    assert_eq!(
        report(parse("[repository]\nurl = \"/x\"\ncluster = \"main\"\n")),
        "\"/etc/pgark/pgark.toml\", line 3: unknown key \"repository.cluster\"\n\
         HINT: Did you mean \"cluster\"? It belongs above the first section."
    );
    assert_eq!(
        report(with("[agent]\nworkers = 3\ncolour = 1")),
        "\"/etc/pgark/pgark.toml\", line 6: unknown key \"agent.colour\"\n\
         HINT: The keys of [agent] are program, start, resident, idle, retry_max, workers, log_max, nice and io_priority."
    );
    assert_eq!(message(with("'repository.url' = 1")), ", line 4: unknown key \"'repository.url'\"");
    assert_eq!(message(with("a.b.c.d = 1")), ", line 4: unknown section \"a.b\"");
    assert_eq!(message(with("agent.x = {}")), ", line 4: unknown section \"agent.x\"");
    assert_eq!(message(with("\"x\\ny\" = 1")), ", line 4: unknown key \"'x\\ny'\"");
    assert_eq!(
        report(with("[agnet]")),
        "\"/etc/pgark/pgark.toml\", line 4: unknown section \"agnet\"\nHINT: Did you mean \"agent\"?"
    );
    assert!(with("[agent]").is_ok(), "a section may be empty");
}

#[test]
fn the_first_error_of_the_file_is_told() {
    assert_eq!(message(parse("z = 1\na = 1\n")), ", line 1: unknown key \"z\"");
}

#[test]
fn refuses_values_of_another_type() {
    assert_eq!(
        report(with("agent.workers = \"two\"")),
        "\"/etc/pgark/pgark.toml\", line 4: \"agent.workers\" must be a whole number from 1 to 64, not \"two\"\n\
         HINT: The number of WAL files to store or fetch in parallel. The default is 2."
    );
    for (found, shown) in [
        ("1.5", "1.5"),
        ("true", "true"),
        ("1979-05-27", "a date or time"),
        ("[1]", "an array"),
        ("{ count = 1 }", "a table"),
    ] {
        assert_eq!(
            message(with(&format!("agent.workers = {found}"))),
            format!(", line 4: \"agent.workers\" must be a whole number from 1 to 64, not {shown}")
        );
    }
    assert_eq!(
        report(parse("cluster = 15\n")),
        format!(
            "\"/etc/pgark/pgark.toml\", line 1: \"cluster\" must be {}, not 15\nHINT: {}",
            KEYS[0].kind, KEYS[0].description
        )
    );
    assert_eq!(
        message(with("compression.method = \"gzip\"")),
        ", line 4: \"compression.method\" must be \"lz4\", \"zstd\" or \"none\", not \"gzip\""
    );
}

#[test]
fn refuses_numbers_out_of_range() {
    for number in ["0", "-2", "65", "99999999999999999999", "0xFF"] {
        assert_eq!(
            message(with(&format!("agent.workers = {number}"))),
            format!(", line 4: \"agent.workers\" must be a whole number from 1 to 64, not {number}")
        );
    }
    assert_eq!(with("agent.workers = 6_4").unwrap().agent.workers.get(), 64);
}

#[test]
fn amounts_have_units_and_limits() {
    assert_eq!(with("get.prefetch_max = \"64GB\"").unwrap().get.prefetch_max_bytes, 64 << 30);
    assert_eq!(with("push.deadline = \"24 h\"").unwrap().push.deadline, Duration::from_secs(86_400));
    let pace = with("backup.max_rate = \"128kB\"").unwrap().backup.pace;
    assert_eq!(pace.max_rate.unwrap().bytes_per_s().get(), 128 << 10);
    for zero in ["0", "\"0\"", "\"0MB\""] {
        assert_eq!(with(&format!("backup.max_rate = {zero}")).unwrap().backup.pace.max_rate, None);
    }

    let times = "Valid units are \"us\", \"ms\", \"s\", \"min\", \"h\" and \"d\".";
    let sizes = "Valid units are \"B\", \"kB\", \"MB\", \"GB\" and \"TB\".";
    let report = |line| report(with(line)).replace("\"/etc/pgark/pgark.toml\", line 4: ", "");
    for (line, line_with_unit, what) in [
        ("push.deadline = 90", "push.deadline = \"90s\"", "a time from 1s to 1d, not 90"),
        ("push.deadline = \"90\"", "push.deadline = \"90s\"", "a time from 1s to 1d, not \"90\""),
        ("push.deadline = \"90sec\"", "push.deadline = \"60s\"", "a time from 1s to 1d, not \"90sec\""),
        ("push.deadline = \"1.5h\"", "push.deadline = \"60s\"", "a time from 1s to 1d, not \"1.5h\""),
        ("push.deadline = 86401", "push.deadline = \"60s\"", "a time from 1s to 1d, not 86401"),
        ("push.deadline = true", "push.deadline = \"60s\"", "a time from 1s to 1d, not true"),
        (
            "s3.object_lock_retention = 30",
            "s3.object_lock_retention = \"30d\"",
            "a time from 1d to 36500d, not 30",
        ),
    ] {
        let key = line.split(' ').next().unwrap();
        assert_eq!(
            report(line),
            format!(
                "\"{key}\" must be {what}\nHINT: Write a whole number with a unit: {line_with_unit}. {times}"
            )
        );
    }
    for (line, line_with_unit, what) in [
        ("s3.part_size = 16", "s3.part_size = \"16MB\"", "a size from 5MB to 512MB, not 16"),
        ("s3.part_size = \"8M\"", "s3.part_size = \"8MB\"", "a size from 5MB to 512MB, not \"8M\""),
        (
            "recover.max_rate = 50",
            "recover.max_rate = \"50MB\"",
            "a size per second from 128kB to 1TB, or 0 (unlimited), not 50",
        ),
    ] {
        let key = line.split(' ').next().unwrap();
        assert_eq!(
            report(line),
            format!(
                "\"{key}\" must be {what}\nHINT: Write a whole number with a unit: {line_with_unit}. {sizes}"
            )
        );
    }
    assert_eq!(
        report("push.deadline = \"25h\""),
        "\"push.deadline\" must be a time from 1s to 1d, not \"25h\"\n\
         HINT: How long archive-push waits for a WAL file to be stored, before it fails and PostgreSQL retries. The \
         default is \"60s\"."
    );
    for line in ["push.deadline = 0", "s3.part_size = \"4MB\"", "backup.max_rate = \"127kB\""] {
        assert!(report(line).contains("The default is"), "{line}");
    }
    assert_eq!(
        report("push.deadline_s = 90"),
        "unknown key \"push.deadline_s\"\nHINT: The unit is part of the value: push.deadline = \"90s\"."
    );
}

#[test]
fn refuses_tables_and_values_in_each_others_place() {
    assert_eq!(
        report(parse("repository = \"/srv/pgark\"\n")),
        "\"/etc/pgark/pgark.toml\", line 1: \"repository\" must be a section, not a string\n\
         HINT: Available keys: \"repository.url\"."
    );
    assert_eq!(
        message(parse("[[repository]]\nurl = 1")),
        ", line 1: \"repository\" must be a section, not an array"
    );
    assert_eq!(
        message(with("[agent.workers]\ncount = 1")),
        ", line 4: \"agent.workers\" must be a whole number from 1 to 64, not a table"
    );
    assert!(message(parse("[cluster]\nname = 1")).ends_with(", not a table"));
}

#[test]
fn tells_where_the_syntax_ends() {
    assert_eq!(
        report(parse("cluster = \"main\"\n\ndata_directory = /var\n")),
        "\"/etc/pgark/pgark.toml\", line 3, column 18: string values must be quoted, expected literal string\n\
         HINT: The file must be valid TOML. Put strings in double quotes."
    );
    assert_eq!(message(parse("cluster = \"a\"\ncluster = \"b\"\n")), ", line 2, column 1: duplicate key");
    assert_eq!(
        message(parse("repository.url = \"ä")),
        ", line 1, column 20: invalid basic string, expected `\"`"
    );
    assert!(message(parse("a.".repeat(10_000))).contains("line 1"));
    assert!(message(parse("[".repeat(100_000))).contains("line 1"));
    assert!(message(parse(format!("x = {}", "[".repeat(100_000)))).contains("line 1"));
}

#[test]
fn names_all_missing_keys() {
    assert_eq!(
        report(parse("cluster = \"main\"\n")),
        format!(
            "\"/etc/pgark/pgark.toml\": \"data_directory\" and \"repository.url\" are missing\n\
             HINT: The smallest file has three lines:\n{}",
            SMALLEST.trim_end()
        )
    );
    assert_eq!(message(parse("")), ": \"cluster\", \"data_directory\" and \"repository.url\" are missing");
    assert_eq!(message(parse("cluster = \"a\"\ndata_directory = \"/a\"")), ": \"repository.url\" is missing");
}

#[test]
fn refuses_text_that_is_not_utf_8() {
    assert_eq!(
        report(parse(b"cluster = \"main\"\n# \xFF\n")),
        "\"/etc/pgark/pgark.toml\", line 2: not valid UTF-8\nHINT: Save the file as UTF-8."
    );
}

#[test]
fn refuses_relative_paths() {
    assert_eq!(
        message(with("spool.directory = \"spool\"")),
        ", line 4: \"spool.directory\" must be an absolute path, not \"spool\""
    );
    assert_eq!(
        message(with("spool.directory = \"/a\\u0000b\"")),
        ", line 4: \"spool.directory\" must be an absolute path, not \"/a\\0b\""
    );
    assert_eq!(
        message(parse("repository.url = \"backups\"\n")),
        ", line 1: \"repository.url\" must be an absolute directory, file:///… or s3://bucket/prefix, not \"backups\""
    );
}

#[test]
fn system_identifiers_are_numbers_or_strings() {
    for value in ["18446744073709551615", "\"18446744073709551615\""] {
        let config = with(&format!("system_identifier = {value}")).unwrap();
        assert_eq!(config.system_identifier, SystemIdentifier::new(u64::MAX));
    }
    for value in ["0", "-1", "\"\"", "\"+1\"", "0x10", "\"18446744073709551616\"", "1.0"] {
        assert!(
            message(with(&format!("system_identifier = {value}"))).starts_with(
                ", line 4: \"system_identifier\" must be a positive decimal number of 64 bits, not "
            ),
            "{value}"
        );
    }
}

#[test]
fn levels_belong_to_zstd() {
    let zstd = with("compression.level = 19\ncompression.method = \"zstd\"").unwrap();
    assert_eq!(zstd.compression, Compression::Zstd { level: 19 });
    assert_eq!(with("compression.method = \"zstd\"").unwrap().compression, Compression::Zstd { level: 1 });
    assert_eq!(
        report(with("compression.level = 1")),
        "\"/etc/pgark/pgark.toml\", line 4: \"compression.level\" has no meaning for lz4\n\
         HINT: Set compression.method = \"zstd\", or remove compression.level."
    );
}

#[test]
fn refuses_to_write_into_the_data_directory() {
    assert_eq!(
        report(parse(SMALLEST.replace("/srv/pgark", "/var/lib/postgresql/15/main/wal"))),
        "\"/etc/pgark/pgark.toml\", line 3: \"repository.url\" lies inside the data directory \
         \"/var/lib/postgresql/15/main\"\n\
         HINT: Choose a directory elsewhere. Otherwise a base backup would include it."
    );
    let mine = without_file("main", "/srv/pgark", Path::new("/var/spool/pgark"));
    assert_eq!(
        report(mine).lines().next(),
        Some("\"spool.directory\" lies inside the data directory \"/var/spool/pgark\"")
    );
}

#[test]
fn secrets_are_shown_nowhere() {
    let config = with("connection.conninfo = \"host=a password=geheim\"").unwrap();
    assert!(!format!("{config:?}").contains("geheim"));
    let shown = config.effective().into_iter().find(|setting| setting.name == "connection.conninfo").unwrap();
    assert_eq!(shown.text, "host=a password=***");
    assert_eq!(config.connection.conninfo.reveal(), "host=a password=geheim");

    for wrong in ["connection = \"password=geheim\"", "connection.conninfo = \"password geheim\""] {
        assert!(!report(with(wrong)).contains("geheim"));
    }
    assert_eq!(
        message(with("connection.conninfo = \"postgresql://u:geheim@h/d\"")),
        ", line 4: \"connection.conninfo\" must be a string of key=value pairs"
    );
    for wrong in [
        "s3.endpoint = \"https://user:geheim@host\"",
        "s3.region = \"s3://user:geheim@host/ \"",
        "connection.standby = \"postgresql://u:geheim@h/d\"",
    ] {
        assert!(!report(with(wrong)).contains("geheim"), "{wrong}");
    }
    let error = parse("repository.url = \"s3://user:geheim@bucket/prefix\"\n").unwrap_err().report();
    assert!(!error.contains("geheim") && !error.contains("user"), "{error}");
    assert!(
        error.contains("not \"s3://…@bucket/prefix\"")
            && error.contains("Do not put access keys into the URL")
    );
}

#[test]
fn effective_settings_tell_who_decided() {
    let effective = with("agent.workers = 3").unwrap().effective();
    assert_eq!(effective.len(), KEYS.len());
    let found = |name| {
        let setting = effective.iter().find(|setting| setting.name == name).unwrap();
        (setting.text.as_str(), setting.origin)
    };
    assert_eq!(found("agent.workers"), ("3", SettingOrigin::File { line: 4 }));
    assert_eq!(found("repository.url"), ("/srv/pgark", SettingOrigin::File { line: 3 }));
    assert_eq!(found("spool.directory"), ("/var/spool/pgark/main", SettingOrigin::Default));
    assert_eq!(found("agent.program"), ("the pgark beside the running program", SettingOrigin::Default));
    assert_eq!(found("system_identifier"), ("any", SettingOrigin::Default));
}

#[test]
fn writes_a_file_that_means_the_same() {
    assert_eq!(with("agent.workers = 2\n[agent]").map(|_| ()).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(with("").unwrap().to_toml(), SMALLEST, "defaults are left out");
    let given = format!("{SMALLEST}agent.workers = 2\n");
    assert_eq!(with("agent.workers = 2").unwrap().to_toml(), given, "what is set may override defaults.toml");
    assert_eq!(
        parse(SMALLEST.replace("/srv/pgark", "file:///srv/a \\\"b\\\"")).unwrap().to_toml(),
        SMALLEST.replace("/srv/pgark", "/srv/a \\\"b\\\"")
    );
    let values = |config: &Config| -> Vec<_> { config.effective().into_iter().map(|s| s.text).collect() };
    for lines in OTHER_VALUES {
        let config = with(lines).unwrap();
        let again = parse(config.to_toml()).unwrap();
        assert_eq!(values(&again), values(&config));
        assert_eq!(again.to_toml(), config.to_toml());
    }
}

#[test]
fn recovery_needs_no_file() {
    let config = without_file("main", "file:///srv/pgark", Path::new("/restored")).unwrap();
    assert_eq!(config.path, None);
    assert_eq!(config.to_toml(), SMALLEST.replace("/var/lib/postgresql/15/main", "/restored"));
    assert_eq!(config.effective()[0].origin, SettingOrigin::Given);

    let refused = |cluster: &str, url: &str, directory: &Path| {
        report(without_file(cluster, url, directory)).lines().next().unwrap().to_owned()
    };
    let directory = Path::new("/restored");
    assert!(refused("a/b", "/srv", directory).starts_with("\"cluster\" must be 1 to 63 letters"));
    assert_eq!(
        refused("a", "srv", directory),
        "\"repository.url\" must be an absolute directory, file:///… or s3://bucket/prefix, not \"srv\""
    );
    assert!(without_file("a", "s3://bucket/c", directory).is_ok());
    assert_eq!(
        refused("a", "/srv", Path::new("restored")),
        "\"data_directory\" must be an absolute path, not \"restored\""
    );
    let not_utf8 = PathBuf::from(OsString::from_vec(b"/\xFF".to_vec()));
    assert_eq!(refused("a", "/srv", &not_utf8), "the data directory \"/\u{FFFD}\" is not UTF-8");
}

#[test]
fn a_recovered_copy_keeps_the_settings_that_do_not_lead_to_the_original() {
    let config = with(
        "agent.workers = 3\nconnection.conninfo = \"password=secret\"\nlog.file = \"/var/log/pgark.log\"\n\
         log.level = \"debug\"",
    )
    .unwrap();
    let system = SystemIdentifier::new(7).unwrap();
    let copy = config.of_recovered(Path::new("/restored"), Path::new("/restored.spool"), system).unwrap();
    assert_eq!((copy.data_directory.as_path(), copy.path.as_deref()), (Path::new("/restored"), None));
    assert_ne!(copy.fingerprint(), config.fingerprint());
    assert_eq!((copy.agent.workers.get(), copy.system_identifier), (3, Some(system)));
    assert_eq!(copy.spool.directory, Path::new("/restored.spool"));
    assert_eq!(copy.log.file, Path::new("/restored.spool/agent.log"), "each agent has a log of its own");
    assert_eq!(copy.log.level, LogLevel::Debug);
    assert!(!copy.to_toml().contains("secret"), "{}", copy.to_toml());
    assert!(config.of_recovered(Path::new("/a"), Path::new("/a/spool"), system).is_err());
}

#[test]
fn an_assumed_version_is_a_supported_one_and_can_be_given_for_one_call() {
    for wrong in ["20", "0x100000012", "\"18\"", "true"] {
        let message = message(with(&format!("assume_version = {wrong}")));
        assert!(
            message.contains("\"assume_version\" must be 13, 14, 15, 16, 17, 18 or 19, not "),
            "{message}"
        );
    }
    let config = with("assume_version = 17").unwrap();
    let given = config.clone().assuming(MajorVersion::V18);
    assert_eq!(given.assumed_version, Some(MajorVersion::V18));
    // The same agent serves it, and the archive programs of a recovered copy find it.
    assert_eq!(given.fingerprint(), config.fingerprint());
    let system = SystemIdentifier::new(7).unwrap();
    let copy = given.of_recovered(Path::new("/restored"), Path::new("/restored.spool"), system).unwrap();
    assert!(copy.to_toml().contains("assume_version = 18\n"), "{}", copy.to_toml());
}

#[test]
fn loads_a_file_whose_path_is_not_utf_8() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(OsString::from_vec(b"\xFF.toml".to_vec()));
    std::fs::write(&path, SMALLEST).unwrap();
    let config = load(&path).unwrap();
    assert_eq!(config.path.as_ref(), Some(&path));
    assert_eq!(
        config.fingerprint(),
        parse(SMALLEST).unwrap().fingerprint(),
        "the settings count, not the path"
    );

    std::fs::write(&path, "x = 1").unwrap();
    assert!(report(load(&path)).contains("\u{FFFD}.toml\", line 1: unknown key \"x\""));
}

#[test]
fn relative_paths_become_absolute() {
    let report = report(load(Path::new("no/such.toml")));
    let here = std::env::current_dir().unwrap();
    assert!(report.starts_with(&format!("could not read \"{}/no/such.toml\": no such file", here.display())));
}

#[test]
fn says_why_a_file_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().display();
    let path = directory.path().join("pgark.toml");
    assert_eq!(
        report(load(&path)),
        format!(
            "could not read \"{place}/pgark.toml\": no such file or directory\n\
             HINT: Create that file (three lines are enough), or choose another with --config, --cluster or \
             PGARK_CONFIG. The default is /etc/pgark/pgark.toml."
        )
    );
    assert_eq!(
        report(load(directory.path())),
        format!("\"{place}\" is not a file\nHINT: Give the path of the configuration file itself.")
    );
    std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert_eq!(
        report(load(&path)),
        format!(
            "\"{place}/pgark.toml\" is larger than 1 MiB\n\
             HINT: This is not a configuration file of pgark. Give the path of one."
        )
    );
}

#[test]
fn a_file_that_may_not_be_read_is_a_wrong_call() {
    let error = Error::io("could not read \"x\"", io::Error::from_raw_os_error(13));
    let error = unreadable(io::ErrorKind::PermissionDenied, error);
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_eq!(
        error.report(),
        "could not read \"x\": permission denied\n\
         HINT: Check owner and permissions: pgark runs as the owner of the data directory."
    );
}

/// The table of all settings in `docs/configuration.md`.
fn table_of_settings() -> String {
    let mut table = "| setting | values | default | purpose |\n|---|---|---|---|\n".to_owned();
    for key in KEYS {
        let (kind, default) = (key.kind.to_string(), key.default.to_string());
        table += &format!("| `{}` | {kind} | {default} | {} |\n", key.name, key.description);
    }
    table.replace('<', "&lt;").replace('>', "&gt;")
}

#[test]
fn the_document_lists_every_setting() {
    let begin = DOCUMENT.find("| setting |").unwrap_or(DOCUMENT.len());
    let (_, documented) = DOCUMENT.split_at(begin);
    assert!(documented.trim() == table_of_settings().trim(), "write this into it:\n{}", table_of_settings());
}

#[test]
fn the_sample_file_parses() {
    assert_eq!(parse(SNIPPET).unwrap().to_toml(), SMALLEST);
}

#[test]
fn the_sample_file_parses_with_everything_enabled() {
    let enabled: Vec<_> = SNIPPET
        .lines()
        .map(|line| {
            line.strip_prefix('#').filter(|rest| rest.starts_with(char::is_alphabetic)).unwrap_or(line)
        })
        .collect();
    let texts =
        |config: Config| config.effective().into_iter().map(|setting| setting.text).collect::<Vec<_>>();
    let (enabled, sample) = (texts(parse(enabled.join("\n")).unwrap()), texts(parse(SNIPPET).unwrap()));
    let differing = enabled.iter().zip(&sample).filter(|(enabled, sample)| enabled != sample).count();
    let offered = SNIPPET.lines().filter(|line| line.starts_with('#') && line.contains(" = ")).count();
    assert_eq!(differing, offered, "each differs from its default");
}

/// A directory of configuration files, and a call that reads it.
struct Etc {
    directory: tempfile::TempDir,
    request: ConfigRequest,
}

impl Etc {
    fn new(files: &[(&str, &str)]) -> Etc {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        Etc { directory, request: ConfigRequest::default() }.variables(&[])
    }

    fn variables(mut self, variables: &[(&str, &str)]) -> Etc {
        let directory = [(DIRECTORY_VARIABLE.into(), self.directory.path().into())];
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        self.request.environment = Environment::new(variables.chain(directory));
        self
    }

    fn cluster(mut self, name: &str) -> Etc {
        self.request.cluster = Some(name.to_owned());
        self
    }

    fn set(mut self, arguments: &[&str]) -> Etc {
        self.request.set = arguments.iter().map(OsString::from).collect();
        self
    }

    fn resolve(&self) -> Result<Config> {
        Config::resolve(&self.request)
    }

    /// The error without the directory.
    fn refused(&self) -> String {
        report(self.resolve()).replace(&format!("{}/", self.directory.path().display()), "")
    }
}

/// The value of a setting and its origin.
fn origin_of(config: &Config, name: &str) -> (String, SettingOrigin) {
    let setting = config.effective().into_iter().find(|setting| setting.name == name).unwrap();
    (setting.text, setting.origin)
}

#[test]
fn what_is_said_last_counts() {
    let file = format!("{SMALLEST}agent.workers = 4\nbackup.workers = 4\nrecover.workers = 4\n");
    let defaults = "agent.workers = 3\nbackup.workers = 3\nrecover.workers = 3\nagent.nice = 3\n";
    let etc = Etc::new(&[("main.toml", &file), ("defaults.toml", defaults)])
        .cluster("main")
        .variables(&[("PGARK_AGENT_WORKERS", "5"), ("PGARK_BACKUP_WORKERS", "5")])
        .set(&["agent.workers=6", "agent.workers=7"]);
    let config = etc.resolve().unwrap();
    for (name, value, origin) in [
        ("agent.workers", "7", SettingOrigin::Set),
        ("backup.workers", "5", SettingOrigin::Variable),
        ("recover.workers", "4", SettingOrigin::File { line: 6 }),
        ("agent.nice", "3", SettingOrigin::Defaults { line: 4 }),
        ("backup.nice", "10", SettingOrigin::Default),
    ] {
        assert_eq!(origin_of(&config, name), (value.to_owned(), origin), "{name}");
    }
    assert_eq!(config.path, Some(etc.directory.path().join("main.toml")));
    assert_eq!(config.defaults_file(), Some(etc.directory.path().join("defaults.toml").as_path()));
    let file_of = |name| config.effective().into_iter().find(|s| s.name == name).unwrap().file;
    assert_eq!(file_of("agent.nice").as_deref(), config.defaults_file());
    assert_eq!((file_of("recover.workers"), file_of("agent.workers")), (config.path.clone(), None));

    // A new file for a recovered copy holds all of them, so that the copy does not depend on this call.
    let system = SystemIdentifier::new(7).unwrap();
    let copy = config.of_recovered(Path::new("/restored"), Path::new("/restored.spool"), system).unwrap();
    for line in ["agent.workers = 7\n", "backup.workers = 5\n", "agent.nice = 3\n"] {
        assert!(copy.to_toml().contains(line), "{}", copy.to_toml());
    }
}

#[test]
fn each_source_is_named_when_it_is_wrong() {
    let main = ("main.toml", SMALLEST);
    let defaults = Etc::new(&[main, ("defaults.toml", "\nagent.workers = 0\n")]).cluster("main");
    assert!(defaults.refused().starts_with("\"defaults.toml\", line 2: \"agent.workers\" must be"));
    let variable = Etc::new(&[main]).cluster("main").variables(&[("PGARK_AGENT_WORKERS", "0")]);
    assert!(variable.refused().starts_with("PGARK_AGENT_WORKERS: \"agent.workers\" must be"));
    let argument = Etc::new(&[main]).cluster("main").set(&["agent.workers=0"]);
    assert!(argument.refused().starts_with("--set: \"agent.workers\" must be"));

    // Settings that do not fit each other.
    let level = Etc::new(&[main, ("defaults.toml", "compression.level = 3\n")]).cluster("main");
    assert!(
        level
            .refused()
            .starts_with("\"defaults.toml\", line 1: \"compression.level\" has no meaning for lz4")
    );
    let level = Etc::new(&[main]).cluster("main").variables(&[("PGARK_COMPRESSION_LEVEL", "3")]);
    assert!(
        level.refused().starts_with("PGARK_COMPRESSION_LEVEL: \"compression.level\" has no meaning for lz4")
    );
    let inside =
        Etc::new(&[main]).cluster("main").set(&["spool.directory=/var/lib/postgresql/15/main/spool"]);
    assert!(inside.refused().starts_with("--set: \"spool.directory\" lies inside the data directory"));

    let missing = Etc::new(&[("main.toml", "cluster = \"main\"\n")]).cluster("main");
    let missing = missing.set(&["data_directory=/data"]).refused();
    assert!(missing.starts_with("\"main.toml\": \"repository.url\" is missing"), "{missing}");
    let absent = Etc::new(&[main]).cluster("other").refused();
    assert!(absent.starts_with("could not read \"other.toml\": no such file"), "{absent}");
    for name in ["defaults", "a/b"] {
        assert!(Etc::new(&[main]).cluster(name).refused().contains("is not the name of a cluster"));
    }
}

#[test]
fn variables_can_replace_the_default_file() {
    let all = [
        ("PGARK_CLUSTER", "main"),
        ("PGARK_DATA_DIRECTORY", "/data"),
        ("PGARK_REPOSITORY_URL", "/srv"),
        ("PGARK_AGENT_NICE", ""),
    ];
    let config = Etc::new(&[("defaults.toml", "agent.nice = 3\n")]).variables(&all).resolve().unwrap();
    assert_eq!((config.path.as_deref(), config.data_directory.as_path()), (None, Path::new("/data")));
    assert_eq!(origin_of(&config, "agent.nice"), ("3".to_owned(), SettingOrigin::Defaults { line: 1 }));
    assert!(config.handover().unwrap().arguments.is_empty());

    let incomplete = Etc::new(&[]).variables(all.get(1..).unwrap());
    assert!(incomplete.refused().starts_with("could not read \"pgark.toml\": no such file"));
    // A file that is named must exist.
    let named = Etc::new(&[]).variables(&all).cluster("main");
    assert!(named.refused().starts_with("could not read \"main.toml\": no such file"));
}

#[test]
fn a_repository_replaces_the_file() {
    let mut etc = Etc::new(&[("main.toml", "nonsense"), ("defaults.toml", "s3.region = \"x\"\n")])
        .cluster("main")
        .variables(&[("PGARK_CLUSTER", "other"), ("PGARK_S3_ENDPOINT", "https://host")]);
    etc.request.repository = Some("s3://bucket/prefix".to_owned());
    let config = etc.resolve().unwrap();
    assert_eq!((config.path.as_deref(), config.cluster.as_str()), (None, "main"));
    assert_eq!(origin_of(&config, "s3.region"), ("x".to_owned(), SettingOrigin::Defaults { line: 1 }));
    assert_eq!(origin_of(&config, "s3.endpoint"), ("https://host".to_owned(), SettingOrigin::Variable));
    assert_eq!(config.data_directory, Path::new("/nonexistent"));
    assert!(config.handover().is_err(), "no file, no agent");

    // With a file, it is another repository of the cluster in the file, or of a cluster with another name.
    std::fs::write(etc.directory.path().join("pgark.toml"), SMALLEST).unwrap();
    etc.request.cluster = None;
    let config = etc.resolve().unwrap();
    assert_eq!(origin_of(&config, "cluster"), ("other".to_owned(), SettingOrigin::Variable));
    assert_eq!(origin_of(&config, "repository.url"), ("s3://bucket/prefix".to_owned(), SettingOrigin::Given));
    assert_eq!(config.data_directory, Path::new("/var/lib/postgresql/15/main"));
    etc.request.file = Some(etc.directory.path().join("pgark.toml"));
    etc.request.cluster = Some("third".to_owned());
    assert_eq!(origin_of(&etc.resolve().unwrap(), "cluster"), ("third".to_owned(), SettingOrigin::Given));
}

#[test]
fn an_agent_serves_equal_settings_wherever_they_come_from() {
    let file = format!("{SMALLEST}push.deadline = \"60s\"\n");
    let commented = format!("# as before\n{SMALLEST}push.deadline = \"1min\"\n");
    let etc = |content: &str| Etc::new(&[("main.toml", content)]).cluster("main");
    let plain = etc(&file).resolve().unwrap().fingerprint();
    assert_eq!(etc(&commented).resolve().unwrap().fingerprint(), plain);
    assert_eq!(etc(SMALLEST).resolve().unwrap().fingerprint(), plain, "60 s is the default");
    let by_variable = etc(&file).variables(&[("PGARK_PUSH_DEADLINE", "90s")]).resolve().unwrap();
    let by_argument = etc(&file).set(&["push.deadline=90s"]).resolve().unwrap();
    let by_file = etc(&file.replace("60s", "90s")).resolve().unwrap();
    assert_ne!(by_variable.fingerprint(), plain);
    assert_eq!(by_argument.fingerprint(), by_variable.fingerprint());
    assert_eq!(by_file.fingerprint(), by_variable.fingerprint());
}

#[test]
fn an_agent_gets_the_settings_of_its_caller() {
    let secret = "connection.conninfo=host=a password=geheim";
    let etc = Etc::new(&[("main.toml", &format!("{SMALLEST}connection.conninfo = \"host=a\"\n"))])
        .cluster("main")
        .variables(&[("PGARK_PUSH_DEADLINE", "80s")])
        .set(&["push.deadline=90s", "compression.method=zstd", secret]);
    let config = etc.resolve().unwrap();
    let handover = config.handover().unwrap();
    assert!(!format!("{:?}", handover.arguments).contains("geheim"), "all users see arguments");
    // As the operating system merges them: those of the handover replace inherited ones.
    let inherited = [("PGARK_PUSH_DEADLINE".to_owned(), "80s".to_owned())];
    let mut variables: std::collections::BTreeMap<String, String> = inherited.into();
    variables.extend(handover.variables);
    let agent = ConfigRequest {
        file: handover.arguments.get(1).map(PathBuf::from),
        environment: Environment::new(variables.into_iter().map(|(name, value)| (name.into(), value.into()))),
        ..ConfigRequest::default()
    };
    let agent = Config::resolve(&agent).unwrap();
    assert_eq!(agent.fingerprint(), config.fingerprint());
    assert_eq!(agent.connection.conninfo.reveal(), "host=a password=geheim");

    let empty = Etc::new(&[("main.toml", SMALLEST)]).cluster("main").set(&["connection.conninfo="]);
    let handover = empty.resolve().unwrap().handover().unwrap();
    assert_eq!(handover.arguments.get(2..).unwrap(), ["--set", "connection.conninfo="]);
    assert!(handover.variables.is_empty());
}

#[test]
fn settings_of_a_call_are_told_apart_from_those_of_the_host() {
    let etc = |set: &[&str]| {
        let files = [("main.toml", SMALLEST), ("defaults.toml", "agent.nice = 3\n")];
        let etc = Etc::new(&files).cluster("main").set(set);
        let config = etc.resolve().unwrap();
        let files = config.of_files_alone().unwrap().unwrap();
        config.archives_like(&files)
    };
    assert!(etc(&[]));
    assert!(etc(&["agent.nice=3", "recover.workers=9", "connection.conninfo=host=a", "backup.nice=1"]));
    assert!(!etc(&["agent.nice=4"]));
    assert!(!etc(&["repository.url=/other"]));
    assert!(without_file("main", "/srv", Path::new("/data")).unwrap().of_files_alone().unwrap().is_none());
}
