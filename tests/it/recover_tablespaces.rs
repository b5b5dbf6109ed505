//! `pgark recover` of a cluster with a tablespace: a copy never touches the directories of its original.

use crate::support::{Cluster, Site, Stop, create_private_directory, files_below, has_postgres_program};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A stopped primary with a table in a tablespace, and a backup from before its last rows.
struct Spacious {
    site: Site,
    primary: Cluster,
    /// The location of the tablespace.
    space: PathBuf,
    /// The name of its link.
    oid: String,
}

const ROWS: &str = "SELECT count(*), sum(a) FROM s";

/// The result of [`ROWS`] at the end.
const ALL: &str = "200|20100";

impl Spacious {
    fn tell() -> Spacious {
        let site = Site::with_servers(1);
        let mut primary = site.cluster("primary");
        let space = site.directory().join("space");
        create_private_directory(&space);
        primary.archive();
        primary.start();
        primary.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
        primary.psql("CREATE TABLE s TABLESPACE space AS SELECT generate_series(1, 100) AS a");
        primary.back_up("first");
        primary.psql("INSERT INTO s SELECT generate_series(101, 200)");
        let oid = primary.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'space'");
        primary.stop(Stop::Fast);
        Spacious { site, primary, space, oid }
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.site.directory().join(name)
    }

    /// `--tablespace-mapping` with its value.
    fn mapping(&self, to: &Path) -> String {
        let to = to.display().to_string().replace('=', "\\=");
        format!("--tablespace-mapping={}={to}", self.space.display())
    }
}

/// Every file below a directory with its content.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = files_below(directory);
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn the_originals_tablespace_is_not_touched() {
    let story = Spacious::tell();
    let original = contents(&story.space);
    assert!(!original.is_empty());
    let into = story.directory("into");
    story
        .primary
        .recover(&into, &["--latest"])
        .run()
        .expect(4)
        .says("tablespace \"space\" has no usable directory")
        .says("is not empty")
        .says(&format!("--tablespace-mapping {}=", story.space.display()));
    assert!(!into.exists());

    // Any name that PostgreSQL accepts is permitted.
    let moved = story.directory("a = \"new\" place");
    story.primary.recover(&into, &["--latest", &story.mapping(&moved)]).run().expect(0);
    assert_eq!(fs::read_link(into.join("pg_tblspc").join(&story.oid)).unwrap(), moved);
    let map = fs::read_to_string(into.join("tablespace_map")).unwrap();
    assert_eq!(map, format!("{} {}\n", story.oid, moved.display()));
    story.primary.start_recovered(&into);
    story.primary.wait_promoted();
    assert_eq!(story.primary.psql(ROWS), ALL);
    story.primary.psql("UPDATE s SET a = 0; CHECKPOINT");
    assert_eq!(fs::read_link(into.join("pg_tblspc").join(&story.oid)).unwrap(), moved);
    let location = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'";
    assert_eq!(story.primary.psql(location), moved.display().to_string());
    story.primary.stop_recovered(&into);
    assert!(!contents(&moved).is_empty());
    assert_eq!(contents(&story.space), original);
}

/// Mapped files are listed as written, and a tablespace created after the backup is announced.
#[test]
fn a_mapped_tablespace_passes_pg_verifybackup_and_a_newer_one_is_named() {
    if !has_postgres_program("pg_verifybackup") {
        eprintln!("skipped: this PostgreSQL has no pg_verifybackup");
        return;
    }
    let mut story = Spacious::tell();
    let newer = story.directory("newer");
    create_private_directory(&newer);
    story.primary.start();
    story.primary.psql(&format!("CREATE TABLESPACE newer LOCATION '{}'", newer.display()));
    let last = story.primary.switch_wal();
    story.primary.wait_archived(&last);
    let (into, space) = (story.directory("into"), story.directory("mapped"));
    let mapping = story.mapping(&space);
    let newest = ["--latest", "--accept-unproven", "--dry-run", &mapping];
    let plan = story.primary.recover(&into, &newest).run().expect(0);
    assert!(plan.stdout.contains(&format!("a tablespace was created in \"{}\"", newer.display())), "{plan}");
    let outcome =
        story.primary.recover(&into, &["--target-immediate", &mapping, "--accept-unproven"]).run().expect(0);
    assert!(!outcome.stderr.contains(&newer.display().to_string()), "the target lies before it: {outcome}");
    let verify = story.primary.postgres_program("pg_verifybackup").args(["-n"]).arg(&into);
    verify.run().expect(0);
    assert!(fs::read_to_string(into.join("tablespace_map")).unwrap().contains("mapped"));
}

#[test]
fn a_tablespace_goes_back_where_it_was_when_that_is_empty() {
    let story = Spacious::tell();
    fs::remove_dir_all(&story.space).unwrap();
    create_private_directory(&story.space);
    assert_eq!(story.primary.answer_after(&story.directory("into"), &["--latest"], ROWS), ALL);
    assert!(!contents(&story.space).is_empty());
}

#[test]
fn a_tablespace_has_no_place_in_what_is_not_free() {
    let story = Spacious::tell();
    let into = story.directory("into");
    let full = story.directory("full");
    create_private_directory(&full);
    fs::write(full.join("precious"), b"x").unwrap();
    let refused = |to: &Path| story.primary.recover(&into, &[&story.mapping(to)]).run();
    refused(&full).expect(4).says("tablespace \"space\" has no usable directory").says("is not empty");
    refused(&full.join("precious")).expect(4).says("is not a directory");
    refused(&into.join("space")).expect(2).says("the data directory");
    refused(&story.space).expect(4).says("is not empty");
    let unknown = format!("--tablespace-mapping={}=/x", full.display());
    story.primary.recover(&into, &[&unknown]).run().expect(2).says("no tablespace in");
    assert!(!into.exists());
    assert_eq!(contents(&full).len(), 1);

    // An existing empty directory is accepted too.
    let empty = story.directory("empty");
    create_private_directory(&empty);
    assert_eq!(story.primary.answer_after(&into, &["--latest", &story.mapping(&empty)], ROWS), ALL);
}

#[test]
fn a_restore_with_a_tablespace_that_was_killed_is_begun_anew() {
    let story = Spacious::tell();
    let (into, moved) = (story.directory("into"), story.directory("moved"));
    let options = ["--latest", &story.mapping(&moved)];
    let whole = story.primary.recover(&into, &options).run().expect(0).took;
    fs::remove_dir_all(&into).unwrap();
    fs::remove_dir_all(&moved).unwrap();
    for part in [0.3, 0.6, 0.9] {
        let running = story.primary.recover(&into, &options).spawn();
        std::thread::sleep(whole.mul_f64(part));
        running.process().kill();
        if !into.join("pgark-recovery-incomplete").exists() && into.join("global/pg_control").exists() {
            break; // the kill came too late
        }
    }
    if !into.join("global/pg_control").exists() || into.join("pgark-recovery-incomplete").exists() {
        story.primary.recover(&into, &options).run().expect(0);
    }
    for directory in [&into, &moved] {
        assert!(!directory.join("pgark-recovery-incomplete").exists());
    }
    story.primary.start_recovered(&into);
    story.primary.wait_promoted();
    assert_eq!(story.primary.psql(ROWS), ALL);
    story.primary.stop_recovered(&into);
}

/// A developer option: the tablespace is a directory in place of a link, and moves with the data directory.
#[test]
fn a_tablespace_in_place_of_a_link_comes_along() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    // For one session only: the server that recovers it does not have the setting.
    let create = |primary: &Cluster, name: &str| {
        primary.psql("ALTER ROLE postgres SET allow_in_place_tablespaces = on");
        primary.psql(&format!("CREATE TABLESPACE {name} LOCATION ''"));
        primary.psql("ALTER ROLE postgres RESET allow_in_place_tablespaces");
    };
    create(&primary, "inside");
    primary.psql("CREATE TABLE s TABLESPACE inside AS SELECT generate_series(1, 100) AS a");
    primary.back_up("files");
    let streamed = primary
        .pgark(&["base-backup", "--method", "stream", "--checkpoint", "fast", "--label", "stream"])
        .run();
    primary.psql("INSERT INTO s SELECT generate_series(101, 200)");
    create(&primary, "later");
    primary.psql("CREATE TABLE l TABLESPACE later AS SELECT 1 AS a");
    let oid = primary.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'inside'");
    let sent = streamed.code == Some(0);
    if !sent {
        // Before version 16, the server does not send it, and such a backup is invalid.
        assert!(primary.version_num() < 160_000, "{streamed}");
        streamed.expect(3).says("did not send the tablespace \"inside\"").says("--method files");
    }
    primary.stop(Stop::Fast);
    for label in ["files", "stream"].into_iter().take(1 + usize::from(sent)) {
        let into = site.directory().join(label);
        assert_eq!(primary.answer_after(&into, &["--latest", "--backup", label], ROWS), ALL, "{label}");
        let directory = into.join("pg_tblspc").join(&oid);
        assert!(directory.is_dir() && !directory.is_symlink(), "{label}");
    }
    let plan = primary.recover(&site.directory().join("plan"), &["--latest", "--dry-run"]).run().expect(0);
    assert!(
        plan.stdout.contains(
            "the tablespaces \"inside\" are in-place tablespaces, directories in the data directory"
        ),
        "{plan}"
    );
    assert!(!plan.stdout.contains("was created in \"\""), "{plan}");
}

/// As above, with a tablespace created after the backup.
#[test]
fn a_tablespace_in_place_of_a_link_that_is_newer_than_the_backup_is_recovered() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.back_up("first");
    primary.psql("ALTER ROLE postgres SET allow_in_place_tablespaces = on");
    primary.psql("CREATE TABLESPACE inside LOCATION ''");
    primary.psql("ALTER ROLE postgres RESET allow_in_place_tablespaces");
    primary.psql("CREATE TABLE s TABLESPACE inside AS SELECT generate_series(1, 200) AS a");
    primary.stop(Stop::Fast);
    let into = site.directory().join("into");
    let plan = primary.recover(&into, &["--latest", "--dry-run"]).run().expect(0);
    assert!(
        plan.stdout
            .contains("tablespaces that were created after the backup are in-place tablespaces, directories"),
        "{plan}"
    );
    assert_eq!(primary.answer_after(&into, &["--latest"], ROWS), ALL);
}

#[test]
fn wal_that_lies_behind_a_link_is_archived_and_recovered_into_a_directory() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    let elsewhere = site.directory().join("wal");
    fs::rename(primary.data().join("pg_wal"), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, primary.data().join("pg_wal")).unwrap();
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE s AS SELECT generate_series(1, 100) AS a");
    primary.back_up("files");
    primary
        .pgark(&["base-backup", "--method", "stream", "--checkpoint", "fast", "--label", "stream"])
        .run()
        .expect(0);
    primary.psql("INSERT INTO s SELECT generate_series(101, 200)");
    primary.stop(Stop::Fast);
    let original = contents(&elsewhere);
    for label in ["files", "stream"] {
        let into = site.directory().join(label);
        assert_eq!(primary.answer_after(&into, &["--latest", "--backup", label], ROWS), ALL, "{label}");
        assert!(into.join("pg_wal").is_dir() && !into.join("pg_wal").is_symlink(), "{label}");
    }
    assert_eq!(contents(&elsewhere), original);
}
