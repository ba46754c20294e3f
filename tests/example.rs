//! The example that a newcomer starts from, asked what the README asks it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/program.rs"]
#[allow(dead_code, reason = "each test uses its part of the support")]
mod program;

use std::path::Path;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType::{A, AAAA, CNAME, PTR, SRV};
use program::{Program, answers, ask, free_port, run};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `Corefile.example` on free ports, started where a newcomer starts it.
fn example() -> Program {
    let mut corefile = std::fs::read_to_string(root().join("Corefile.example")).unwrap();
    assert!(corefile.contains(".:1053 {"));
    corefile = corefile.replace(".:1053 {", ".:PORT {");
    for port in ["18080", "18181", "19153"] {
        assert!(corefile.contains(port));
        corefile = corefile.replace(port, &free_port().to_string());
    }
    Program::start_in(tempfile::tempdir().unwrap(), &corefile, Some(root()))
}

#[test]
fn the_example_answers_services_pods_and_aliases() {
    let program = example();
    assert_eq!(
        program.ask("web-service.default.svc.cluster.local.", A),
        ["10.96.10.1"]
    );
    assert_eq!(
        program.ask("web-service.payroll.svc.cluster.local.", A),
        ["10.96.20.1"]
    );
    assert_eq!(
        program.ask("api.apps.svc.cluster.local.", AAAA),
        ["fd00:10:96::30"]
    );
    assert_eq!(
        program.ask("10-244-2-5.apps.pod.cluster.local.", A),
        ["10.244.2.5"]
    );
    assert_eq!(
        program.ask("_http._tcp.web-service.default.svc.cluster.local.", SRV),
        ["0 100 80 web-service.default.svc.cluster.local."]
    );
    assert_eq!(
        program.ask("reports.payroll.svc.cluster.local.", CNAME),
        ["web-service.default.svc.cluster.local."]
    );
    let aliased = program.ask("reports.payroll.svc.cluster.local.", A);
    assert_eq!(
        aliased,
        ["web-service.default.svc.cluster.local.", "10.96.10.1"]
    );
}

#[test]
fn the_example_answers_a_headless_service_with_its_ready_pods() {
    let program = example();
    let mut addresses = program.ask("db.apps.svc.cluster.local.", A);
    addresses.sort();
    assert_eq!(addresses, ["10.244.2.10", "10.244.2.11"]);
    assert_eq!(
        program.ask("db-0.db.apps.svc.cluster.local.", A),
        ["10.244.2.10"]
    );
    let mut targets = program.ask("_postgres._tcp.db.apps.svc.cluster.local.", SRV);
    targets.sort();
    assert_eq!(
        targets,
        [
            "0 50 5432 db-0.db.apps.svc.cluster.local.",
            "0 50 5432 db-1.db.apps.svc.cluster.local."
        ]
    );
}

#[test]
fn the_example_answers_reverse_questions() {
    let program = example();
    assert_eq!(
        program.ask("1.10.96.10.in-addr.arpa.", PTR),
        ["web-service.default.svc.cluster.local."]
    );
    assert_eq!(
        program.ask("1.20.96.10.in-addr.arpa.", PTR),
        ["web-service.payroll.svc.cluster.local."]
    );
    assert_eq!(
        program.ask("10.2.244.10.in-addr.arpa.", PTR),
        ["db-0.db.apps.svc.cluster.local."]
    );
}

#[test]
fn the_example_denies_what_the_cluster_does_not_have() {
    let program = example();
    for name in [
        "nothing.default.svc.cluster.local.",
        "web-service.default.pod.cluster.local.",
    ] {
        let reply = ask(program.port, name, A);
        assert_eq!(
            reply.metadata.response_code,
            ResponseCode::NXDomain,
            "{name}"
        );
        assert!(reply.metadata.authoritative, "{name}");
        assert_eq!(reply.authorities.len(), 1, "{name}");
    }
    let reply = ask(program.port, "db.apps.svc.cluster.local.", AAAA);
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(answers(&reply).is_empty());
}

#[test]
fn check_accepts_the_example_without_opening_anything() {
    let (out, err, code) = run(root(), &["check", "Corefile.example"]);
    assert_eq!(code, Some(0), "{out}{err}");
}

/// Commands of the README's console blocks, each with what it shows them to print.
fn shown_commands(readme: &str) -> Vec<(&str, Vec<String>)> {
    let mut commands: Vec<(&str, Vec<String>)> = Vec::new();
    for block in readme.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            match (line.strip_prefix("$ "), commands.last_mut()) {
                (Some(command), _) => commands.push((command, Vec::new())),
                (None, Some((_, shown))) => shown.push(line.to_owned()),
                (None, None) => panic!("`{line}` stands before any command"),
            }
        }
    }
    commands
}

/// Lines in no particular order, for `loadbalance` turns them, with their words one space apart.
fn comparable<'t>(lines: impl Iterator<Item = &'t str>) -> Vec<String> {
    let mut lines: Vec<String> = lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty())
        .collect();
    lines.sort();
    lines
}

#[test]
fn the_clients_print_what_the_readme_shows() {
    let program = example();
    let port = program.port.to_string();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let mut count = 0;
    for (command, shown) in shown_commands(&readme) {
        let command = command.replace("1053", &port);
        let words: Vec<&str> = command.split(' ').collect();
        if !["dig", "nslookup", "host"].contains(&words[0]) {
            continue;
        }
        count += 1;
        let Ok(output) = std::process::Command::new(words[0])
            .args(&words[1..])
            .output()
        else {
            eprintln!("skipped: `{}` is not installed", words[0]);
            continue;
        };
        let printed = String::from_utf8(output.stdout)
            .unwrap()
            .replace(&port, "1053");
        // dig warns of every name below `.local`.
        let printed = printed.lines().filter(|line| !line.starts_with(';'));
        assert_eq!(
            comparable(printed),
            comparable(shown.iter().map(String::as_str)),
            "{command}"
        );
    }
    assert!(count >= 7, "{count}");
}

#[test]
fn check_prints_what_the_readme_shows() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let shown = shown_commands(&readme);
    let (_, expected) = shown
        .iter()
        .find(|(command, _)| *command == "fingerpost check Corefile")
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let corefile = ".:1053 {\n    kubernets cluster.local\n}\n";
    std::fs::write(folder.path().join("Corefile"), corefile).unwrap();
    let (out, err, code) = run(folder.path(), &["check", "Corefile"]);
    assert_eq!(code, Some(1));
    let printed: Vec<&str> = err
        .lines()
        .chain(out.lines())
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(printed, *expected);
}

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
spec:
  clusterIP: 10.96.1.1
  clusterIPs: [10.96.1.1]
  ports:
    - port: 80
";

#[test]
fn an_edited_object_file_changes_answers_and_a_broken_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let objects = folder.path().join("objects");
    std::fs::create_dir(&objects).unwrap();
    let file = objects.join("web.yaml");
    std::fs::write(&file, SERVICE).unwrap();
    let corefile = ".:PORT {
    bind 127.0.0.1
    cache 30
    kubernetes cluster.local {
        manifests objects
    }
}
";
    let working = folder.path().to_owned();
    let program = Program::start_in(folder, corefile, Some(&working));
    let name = "web.shop.svc.cluster.local.";
    program.wait_for_answer(name, A, &["10.96.1.1"]);
    std::fs::write(&file, "apiVersion: v1\nkind: [").unwrap();
    program.wait_for_output("web.yaml", 1);
    assert_eq!(program.ask(name, A), ["10.96.1.1"]);
    std::fs::write(&file, SERVICE.replace("10.96.1.1", "10.96.1.2")).unwrap();
    program.wait_for_answer(name, A, &["10.96.1.2"]);
    // A name that was denied is there as soon as its object is: the cache above holds nothing of the cluster.
    let other = "late.shop.svc.cluster.local.";
    assert_eq!(
        ask(program.port, other, A).metadata.response_code,
        ResponseCode::NXDomain
    );
    std::fs::write(
        objects.join("late.yaml"),
        SERVICE.replace("name: web", "name: late"),
    )
    .unwrap();
    program.wait_for_answer(other, A, &["10.96.1.1"]);
}
