//! Conflicting instances: two primaries with one history, two agents of one spool, and the orphan of an ended archiver.

use crate::support::checker::{Acknowledged, Tree, expect_sound};
use crate::support::{Cluster, PATIENCE, Process, Site, Stop, wait_until};
use nix::sys::signal::Signal;

/// A segment number after those that initdb creates.
const SEGMENT: u64 = 0x40;

/// Archives, and continues with rows of its own.
fn write(cluster: &Cluster, who: &str) -> String {
    cluster.psql(&format!("INSERT INTO t SELECT '{who}', generate_series(1, 500)"));
    cluster.switch_wal()
}

#[test]
fn of_two_primaries_one_wins_each_file_and_the_other_is_told() {
    let site = Site::with_servers(2);
    let mut right = site.cluster("right");
    right.archive();
    right.append_conf("wal_keep_size = '64MB'\n"); // the segments stay, to be compared
    right.start();
    right.psql("CREATE TABLE t (who text, a int)");
    right.back_up("one");
    right.stop(Stop::Fast);
    // A copy of the machine, with the same spool settings and the same repository.
    let mut wrong = right.copy("wrong");
    wrong.archive();
    right.start();
    let segment = write(&right, "right");
    right.wait_archived(&segment);
    wrong.start();
    let refused = write(&wrong, "wrong");
    wrong.wait_for_row("SELECT failed_count > 0 FROM pg_stat_archiver", "t");
    let log = wrong.log();
    assert!(log.contains("already holds another file of this name"), "{log}");
    assert!(log.contains("Check that the old primary is stopped") || log.contains("HINT"), "{log}");
    // Both continue; each file is that of one server, and the wrong one never gets past its first rejection.
    let segments = [write(&right, "right"), write(&right, "right")];
    write(&wrong, "wrong");
    right.wait_archived(&segments[1]);
    assert_eq!(
        wrong.psql(&format!("SELECT coalesce(last_archived_wal < '{refused}', true) FROM pg_stat_archiver")),
        "t"
    );
    let expected = right.psql("SELECT who, count(*) FROM t GROUP BY who");
    wrong.stop(Stop::Immediate); // fenced
    right.stop(Stop::Fast);

    let mut acknowledged = Acknowledged::default();
    acknowledged.backups.insert("one".to_owned());
    for name in std::fs::read_dir(right.data().join("pg_wal/archive_status")).unwrap() {
        let name = name.unwrap().file_name().into_string().unwrap();
        if let Some(name) = name.strip_suffix(".done") {
            acknowledged.file(name, &right.read(&format!("pg_wal/{name}")));
        }
    }
    assert!(acknowledged.files.len() >= 2);
    expect_sound(&Tree::read(&site.repository()), &acknowledged, "with two primaries");
    let target = site.directory().join("target");
    let found = right.answer_after(&target, &["--latest"], "SELECT who, count(*) FROM t GROUP BY who");
    assert_eq!(found, expected, "nothing of the other one");
}

#[test]
fn of_two_primaries_at_once_nothing_is_mixed() {
    let site = Site::without_server();
    let (one, two) = (site.cluster("one"), site.cluster("two"));
    let wal = one.fake_wal();
    let mut acknowledged = Acknowledged::default();
    let mut won = [0, 0];
    for number in SEGMENT..SEGMENT + 8 {
        let name = wal.name(number);
        let pushes: Vec<_> = [(&one, 1), (&two, 2)]
            .into_iter()
            .map(|(cluster, seed)| {
                cluster.put_wal(&name, wal.bytes(number, seed));
                (cluster.program("archive-push").arg(format!("pg_wal/{name}")).spawn(), seed)
            })
            .collect();
        let mut winners = Vec::new();
        for (push, seed) in pushes {
            let outcome = push.wait();
            match outcome.code {
                Some(0) => winners.push(seed),
                _ => drop(outcome.expect(4).says("already holds another file").says("HINT:")),
            }
        }
        let [winner] = winners[..] else { panic!("{} of two won {name}", winners.len()) };
        won[winner as usize - 1] += 1;
        acknowledged.file(&name, &wal.bytes(number, winner));
    }
    eprintln!("won: {won:?}");
    expect_sound(&Tree::read(&site.repository()), &acknowledged, "with two primaries");
}

/// A server is killed, its `archive-push` continues to wait, and the server that replaces it archives the same file.
#[test]
fn an_orphan_of_the_old_archiver_is_in_nobodys_way() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.append_conf("wal_keep_size = '64MB'\n");
    primary.start();
    let first = primary.switch_wal();
    primary.wait_archived(&first);
    let agent = primary.agent();
    agent.signal(Signal::SIGSTOP);
    let waiting = primary.switch_wal();
    let pushes = || -> Vec<Process> {
        let of_cluster = Process::all_of(primary.data().parent().unwrap());
        of_cluster.into_iter().filter(|process| is_push(*process)).collect()
    };
    wait_until("a push waits", PATIENCE, || pushes().iter().any(|push| push.has_socket()));
    let orphan = pushes()[0];
    // Kills the whole server, including its archiver; only its child processes continue.
    primary.kill_server_but_not(&|process| is_push(process));
    assert!(orphan.is_alive(), "the orphan goes on");
    primary.start();
    agent.signal(Signal::SIGCONT);
    primary.wait_archived(&waiting);
    wait_until("the orphan ends", PATIENCE, || !orphan.is_alive());
    let bytes = primary.read(&format!("pg_wal/{waiting}"));
    expect_sound(
        &Tree::read(&site.repository()),
        &Acknowledged::with_file(&waiting, &bytes),
        "with an orphan",
    );
    primary.stop(Stop::Fast);
}

fn is_push(process: Process) -> bool {
    process.command_line().split(' ').next().is_some_and(|program| program.ends_with("archive-push"))
}

/// Two agents that start at once, again and again: one continues, and each requested file is stored once.
#[test]
fn two_agents_that_start_at_once_store_each_file_once() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let mut acknowledged = Acknowledged::default();
    for number in SEGMENT..SEGMENT + 6 {
        let name = wal.name(number);
        cluster.put_wal(&name, wal.bytes(number, 1));
        if let Some(agent) = cluster.find_agent() {
            agent.kill();
        }
        let agents = [cluster.pgark(&["agent"]).spawn(), cluster.pgark(&["agent"]).spawn()];
        let pushes = [(); 3].map(|()| cluster.program("archive-push").arg(format!("pg_wal/{name}")).spawn());
        pushes.into_iter().for_each(|push| drop(push.wait().expect(0)));
        acknowledged.file(&name, &wal.bytes(number, 1));
        let mut agents = agents;
        wait_until("one agent is left at the most", PATIENCE, || {
            agents.iter_mut().filter_map(|agent| agent.try_status().is_none().then_some(())).count() <= 1
        });
    }
    expect_sound(&Tree::read(&site.repository()), &acknowledged, "with two agents");
}
