//! The sources of settings: files, variables and arguments, and what the agent gets of them.

use crate::support::{
    Cluster, Outcome, PATIENCE, Process, Run, Site, Story, create_private_directory, pgark_program,
    wait_until, write_file,
};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const SEGMENT: u64 = 0x40;

/// Writes a segment to archive; returns its path as in `%p`.
fn segment(cluster: &Cluster, number: u64) -> String {
    let wal = cluster.fake_wal();
    cluster.put_wal(&wal.name(number), wal.bytes(number, 1));
    format!("pg_wal/{}", wal.name(number))
}

fn settings(run: Run) -> Value {
    serde_json::from_str(&run.run().expect(0).stdout).unwrap()
}

/// A setting as `pgark config --json` prints it.
fn setting(settings: &Value, name: &str) -> Value {
    let all = settings["settings"].as_array().unwrap();
    all.iter().find(|setting| setting["name"] == name).unwrap().clone()
}

/// The directory of the configurations of all clusters of a host.
fn configurations(site: &Site) -> PathBuf {
    let directory = site.directory().join("etc");
    create_private_directory(&directory);
    directory
}

/// A program of pgark on a host with this directory.
fn on_host(name: &str, configurations: &Path) -> Run {
    Run::new(pgark_program(name)).env("PGARK_CONFIG_DIRECTORY", configurations)
}

#[test]
fn settings_of_a_call_reach_an_agent_of_their_own() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let push = |number: u64| cluster.program("archive-push").arg(segment(&cluster, number));
    push(SEGMENT).run().expect(0);
    let usual = cluster.agent();

    let compressed = push(SEGMENT + 1).env("PGARK_COMPRESSION_METHOD", "zstd");
    compressed.env("PGARK_COMPRESSION_LEVEL", "3").run().expect(0);
    let other = cluster.agent();
    assert_ne!(other, usual, "the agent of the file serves other settings");
    wait_until("the first agent has ended", PATIENCE, || !usual.is_alive());
    let archive = site.archive_of(&cluster);
    let magic = |number: u64| {
        let stored = archive.stored(&cluster.fake_wal().name(number));
        // A skippable frame comes first: four bytes of magic and its length.
        let length = u32::from_le_bytes(stored[4..8].try_into().unwrap()) as usize;
        stored[8 + length..12 + length].to_vec()
    };
    assert_eq!(magic(SEGMENT), 0x184D_2204_u32.to_le_bytes(), "lz4");
    assert_eq!(magic(SEGMENT + 1), 0xFD2F_B528_u32.to_le_bytes(), "zstd");

    // The same settings by arguments lead to the same agent; arguments win over variables.
    let by_arguments = ["--set", "compression.method=zstd", "--set", "compression.level=3"];
    let again = push(SEGMENT + 2).args(by_arguments).env("PGARK_COMPRESSION_LEVEL", "9");
    again.run().expect(0);
    assert_eq!(cluster.agent(), other);
    assert_eq!(magic(SEGMENT + 2), magic(SEGMENT + 1));
    push(SEGMENT + 3).args(["--set", "agent.nice=1", "--set", "connection.conninfo="]).run().expect(0);
    let third = cluster.agent();
    assert_ne!(third, other);

    // Without these settings, it is an agent of another configuration, and still one of this spool.
    let status = |run: Run| serde_json::from_str::<Value>(&run.run().expect(0).stdout).unwrap();
    let without = status(cluster.pgark(&["--json", "status"]));
    assert!(without["agent"].is_null(), "{without}");
    assert_eq!(without["other_agents"][0]["process_id"], third.0);
    let with = ["--json", "status", "--set", "agent.nice=1", "--set", "connection.conninfo="];
    assert_eq!(status(cluster.pgark(&with))["agent"]["process_id"], third.0);
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    assert!(!third.is_alive());
}

#[test]
fn config_names_the_source_of_each_setting() {
    let site = Site::without_server();
    let etc = configurations(&site);
    let defaults = "get.deadline = \"7s\"\npush.deadline = \"7s\"\nagent.idle = \"7s\"\nagent.workers = 7\n";
    write_file(&etc.join("defaults.toml"), defaults);
    let main = "cluster = \"main\"\ndata_directory = \"/data\"\nrepository.url = \"/srv\"\n\
                push.deadline = \"8s\"\nagent.idle = \"8s\"\nagent.workers = 8\n\
                connection.conninfo = \"host=a password=geheim\"\n";
    write_file(&etc.join("main.toml"), main);
    let run = |arguments: &[&str]| {
        let run = on_host("pgark", &etc).args(["--set", "agent.workers=10", "config", "--cluster", "main"]);
        let secret = "host=b password=geheim";
        run.args(arguments)
            .env("PGARK_AGENT_IDLE", "9s")
            .env("PGARK_AGENT_WORKERS", "9")
            .env("PGARK_CONNECTION_STANDBY", secret)
    };
    let found = settings(run(&["--json", "--set=s3.stall_timeout=90s"]));
    let (file, defaults) = (etc.join("main.toml"), etc.join("defaults.toml"));
    assert_eq!((&found["file"], &found["defaults_file"]), (&path(&file), &path(&defaults)));
    for (name, value, origin, from, line) in [
        ("agent.workers", Value::from(10), "--set", Value::Null, Value::Null),
        ("agent.idle", Value::from(9), "variable", Value::Null, Value::Null),
        ("push.deadline", Value::from(8), "file", path(&file), Value::from(4)),
        ("get.deadline", Value::from(7), "defaults file", path(&defaults), Value::from(1)),
        ("s3.stall_timeout", Value::from(90), "--set", Value::Null, Value::Null),
        ("agent.nice", Value::from(0), "default", Value::Null, Value::Null),
    ] {
        let setting = setting(&found, name);
        assert_eq!((&setting["value"], setting["origin"].as_str()), (&value, Some(origin)), "{name}");
        assert_eq!((&setting["file"], &setting["line"]), (&from, &line), "{name}");
    }
    assert_eq!(setting(&found, "push.deadline")["variable"], "PGARK_PUSH_DEADLINE");

    let text = run(&[]).run().expect(0).stdout;
    for (name, source) in [
        ("agent.workers", "--set".to_owned()),
        ("agent.idle", "PGARK_AGENT_IDLE".to_owned()),
        ("push.deadline", format!("{}, line 4", file.display())),
        ("get.deadline", format!("{}, line 1", defaults.display())),
        ("agent.nice", "default".to_owned()),
    ] {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        assert!(line.ends_with(&format!("  {source}")), "{line}");
    }
    for output in [text, found.to_string()] {
        assert!(output.contains("password=***") && !output.contains("geheim"), "{output}");
    }
}

fn path(path: &Path) -> Value {
    path.to_str().unwrap().into()
}

#[test]
fn clusters_of_a_host_are_named_and_share_defaults() {
    let site = Site::without_server();
    let etc = configurations(&site);
    let shared = format!("repository.url = {:?}\nagent.idle = \"20s\"\n", site.repository());
    write_file(&etc.join("defaults.toml"), shared);
    let clusters = ["sales", "stock"].map(|name| {
        let cluster = site.cluster(name);
        let (data, spool) = (cluster.data(), cluster.spool());
        let own = format!("cluster = {name:?}\ndata_directory = {data:?}\nspool.directory = {spool:?}\n");
        write_file(&etc.join(format!("{name}.toml")), own);
        (name, cluster)
    });
    for (name, cluster) in &clusters {
        let push = on_host("archive-push", &etc).args(["--cluster", name]).in_directory(cluster.data());
        push.arg(segment(cluster, SEGMENT)).run().expect(0);
        let wal = cluster.fake_wal().name(SEGMENT);
        let get = on_host("archive-get", &etc).args(["--cluster", name]).in_directory(cluster.data());
        get.args([wal.as_str(), "pg_wal/RECOVERYXLOG"]).run().expect(0);
        let info = on_host("pgark", &etc).args(["info", "--cluster", name]).run().expect(0);
        assert!(
            info.stdout.starts_with(&format!("cluster {name} in ")) && info.stdout.contains(&wal),
            "{info}"
        );
        assert!(site.repository().join(name).is_dir());
    }
    let [(_, sales), (_, stock)] = &clusters;
    assert_ne!(sales.agent(), stock.agent());

    // Another cluster's name in the wrong data directory is an error, not a mix-up.
    let wrong = on_host("archive-push", &etc).args(["--cluster", "stock"]).in_directory(sales.data());
    wrong.arg(segment(sales, SEGMENT + 1)).run().expect(2);
    let pgark = |arguments: &[&str]| on_host("pgark", &etc).args(arguments).run();
    pgark(&["config", "--cluster", "other"]).expect(2).says("other.toml\": no such file");
    pgark(&["config", "--cluster", "defaults"]).expect(2).says("not the name of a cluster");
    pgark(&["config", "--cluster", "sales", "--config", "x"]).expect(2).says("exclude each other");
    pgark(&["config"]).expect(2).says("pgark.toml\": no such file");
    // A repository that is named needs no file of the cluster; those of the defaults still apply.
    let url = site.repository();
    let named = ["info", "--repository", url.to_str().unwrap(), "--cluster"];
    let info = pgark(&[&named[..], &["sales"]].concat()).expect(0);
    assert!(info.stdout.starts_with("cluster sales in "), "{info}");
    pgark(&[&named[..], &["absent"]].concat()).expect(1);
    // Without a name, it is another repository of the cluster in the file.
    let file = etc.join("sales.toml");
    let empty = site.directory().join("empty");
    create_private_directory(&empty);
    let other = ["info", "--config", file.to_str().unwrap(), "--repository", empty.to_str().unwrap()];
    pgark(&other).expect(1).says("holds nothing of cluster \"sales\"");
}

#[test]
fn a_symbolic_link_to_the_configuration_leads_to_the_same_agent() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let link = site.directory().join("link.toml");
    symlink(&cluster.config.path, &link).unwrap();
    cluster.push(&segment(&cluster, SEGMENT)).expect(0);
    let agent = cluster.agent();
    let push =
        Run::new(pgark_program("archive-push")).arg("--config").arg(&link).in_directory(cluster.data());
    push.arg(segment(&cluster, SEGMENT + 1)).run().expect(0);
    assert_eq!(cluster.agent(), agent);
    // Whatever changes nothing keeps the agent.
    let content = fs::read_to_string(&cluster.config.path).unwrap();
    write_file(&cluster.config.path, format!("# a comment\n{content}agent.workers = 2\n"));
    cluster.push(&segment(&cluster, SEGMENT + 2)).expect(0);
    assert_eq!(cluster.agent(), agent);
}

#[test]
fn a_container_needs_only_variables() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let etc = configurations(&site);
    let push = |variables: &[(&str, String)]| {
        let run = on_host("archive-push", &etc).in_directory(cluster.data()).arg(segment(&cluster, SEGMENT));
        variables.iter().fold(run, |run, (name, value)| run.env(name, value)).run()
    };
    let shown = |path: PathBuf| path.display().to_string();
    let variables = [
        ("PGARK_CLUSTER", "main".to_owned()),
        ("PGARK_DATA_DIRECTORY", shown(cluster.data())),
        ("PGARK_SPOOL_DIRECTORY", shown(cluster.spool())),
        ("PGARK_REPOSITORY_URL", shown(site.repository())),
    ];
    push(&variables).expect(0);
    assert!(site.archive_of(&cluster).holds(&cluster.fake_wal().name(SEGMENT)));
    push(&variables[1..]).expect(2).says("pgark.toml\": no such file");
}

#[test]
fn what_is_written_wrongly_is_refused_with_the_right_spelling() {
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    let path = segment(&cluster, SEGMENT);
    let name = cluster.fake_wal().name(SEGMENT);
    let refused = |cluster: &Cluster, variable: (&str, &str), arguments: &[&str], expected: &str| {
        let all: [(&str, Vec<&str>, i32); 3] = [
            ("archive-push", vec![&path], 2),
            ("archive-get", vec![&name, "pg_wal/RECOVERYXLOG"], 126),
            ("pgark", vec!["config"], 2),
        ];
        for (program, call, status) in all {
            let run = cluster.program(program).args(arguments).args(call).env(variable.0, variable.1);
            let outcome: Outcome = run.run().expect(status);
            assert!(outcome.stderr.contains(expected), "{expected} is not in {outcome}");
        }
    };
    let none = ("LC_ALL", "C");
    for (variable, expected) in [
        (("PGARK_PUSH_DEADLINE_S", "60"), "HINT: The unit is part of the value: PGARK_PUSH_DEADLINE=60s."),
        (("PGARK_PUSH_DEADLINE", "60"), "HINT: Write a whole number with a unit: 60s."),
        (("PGARK_PUSHDEADLINE", "60s"), "HINT: Did you mean PGARK_PUSH_DEADLINE?"),
    ] {
        refused(&cluster, variable, &[], expected);
    }
    refused(&cluster, none, &["--set", "push.deadlin=60s"], "HINT: Did you mean \"push.deadline\"?");
    refused(&cluster, none, &["--set", "push.deadline"], "HINT: Write KEY=VALUE: --set push.deadline=60s.");
    cluster.config.set("push.deadline_s", 60);
    refused(&cluster, none, &[], "HINT: The unit is part of the value: push.deadline = \"60s\".");
    cluster.config.set("push.deadline_s", "60s");
    refused(&cluster, none, &[], "unknown key \"push.deadline_s\"");
    assert!(Process::all_of(site.directory()).is_empty(), "no agent was started");
}

/// The programs of a recovered cluster get their settings from a file, not from the call that recovered it.
#[test]
fn a_recovered_cluster_keeps_the_settings_of_the_call() {
    let mut story = Story::tell();
    story.primary.pgark(&["agent", "stop"]).run().expect(0);
    let repository = story.site.repository();
    story.primary.move_data_away("destroyed");
    story.primary.config.set("repository.url", "/nonexistent/repository");
    let options = ["--target-name", "ten rows", "--target-action", "promote", "--wait"];
    let recover = story.primary.pgark(&["recover"]).args(options).env("PGARK_REPOSITORY_URL", &repository);
    recover.run().expect(0);
    let auto = String::from_utf8(story.primary.read("postgresql.auto.conf")).unwrap();
    let own = format!("{}.pgark.toml", story.primary.data().display());
    assert!(auto.contains(&own), "{auto}");
    let content = fs::read_to_string(&own).unwrap();
    assert!(content.contains(&format!("repository.url = {repository:?}\n")), "{content}");
    let stop = story.primary.postgres_program("pg_ctl").arg("-D").arg(story.primary.data());
    stop.args(["stop", "-m", "fast", "-w"]).run().expect(0);
}
