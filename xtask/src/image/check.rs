//! What `cargo xtask test` asks of the image: that it is small and the same twice, that containerd takes it, and that it
//! serves port 53 in a container with the rights of a pod of `deploy/`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Flags, Source, VERSION, archive, layer, make};
use crate::command::{output, run, succeeds};
use crate::server::Running;
use crate::steps::Done;
use crate::{paths, provision};

/// Octets that the archive may have.
const ARCHIVE_MAX: usize = 15_000_000;

/// Names from a file, from a second block, and from an upstream that is given by name, as the hosts file has it.
const COREFILE: &str = "\
.:53 {
    errors
    health
    ready
    hosts /etc/coredns/none {
        10.0.0.1 a.example
        fallthrough
    }
    forward . upstream.example:5300
}
.:5300 {
    hosts /etc/coredns/none {
        10.0.0.2 b.example
    }
}
";

/// The container's name.
const CONTAINER: &str = "fingerpost-image-check";

fn folder() -> PathBuf {
    paths::target().join("image")
}

/// Builds the image and writes it a second time.
pub fn is_small_and_the_same_twice() -> Result<Done, String> {
    let archive = make(&Flags::default(), &folder())?;
    let first = read(&archive)?;
    let target = super::elf::Machine::here()?.target();
    let program = paths::cargo_target().join(target);
    let flags = Flags {
        programs: vec![program.join("release/fingerpost")],
        ..Flags::default()
    };
    let second = read(&make(&flags, &folder().join("again"))?)?;
    if first != second {
        return Err("two archives of one program differ".into());
    }
    if first.len() > ARCHIVE_MAX {
        let len = first.len();
        return Err(format!(
            "the archive has {len} octets, more than {ARCHIVE_MAX}"
        ));
    }
    Ok(Done::Passed)
}

/// Builds it in a fresh clone at another path, with another target folder: the program must be the same, to the octet.
/// It takes as long as two builds of the release.
pub fn is_the_same_from_a_clone() -> Result<Done, String> {
    if Source::of_checkout()
        .commit
        .is_none_or(|it| it.ends_with("-dirty"))
    {
        return Ok(Done::Skipped(
            "the checkout is not what is committed".into(),
        ));
    }
    let here = read(&make(&Flags::default(), &folder())?)?;
    let clone = paths::target().join("image-clone");
    if clone.exists() {
        std::fs::remove_dir_all(&clone).map_err(|error| format!("{}: {error}", clone.display()))?;
    }
    run(Command::new("git")
        .args(["clone", "--quiet", "--no-hardlinks"])
        .args([paths::root(), &clone]))?;
    run(Command::new(env!("CARGO"))
        .args(["xtask", "image"])
        .current_dir(&clone)
        .env("CARGO_TARGET_DIR", clone.join("target")))?;
    let there = read(&clone.join("target/image/fingerpost.tar"))?;
    if here != there {
        let [here, there] = [archive::digest(&here), archive::digest(&there)];
        return Err(format!(
            "the checkout gives {here}, a clone of it gives {there}"
        ));
    }
    Ok(Done::Passed)
}

/// Lets containerd and runc have it. Needs root.
pub fn serves_in_a_container() -> Result<Done, String> {
    if !succeeds(Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "true"])) {
        return Ok(Done::Skipped("containers need root here".into()));
    }
    provision::container_tools()?;
    let folder = folder();
    let archive = folder.join("fingerpost.tar");
    containerd_takes(&archive, &folder.join("containerd"))?;
    let bundle = unpack(&archive, &folder)?;
    as_in_a_pod(&bundle, &folder)?;
    serve(&bundle, &folder)?;
    Ok(Done::Passed)
}

/// A containerd of our own, away from whatever else runs here.
fn containerd_takes(archive: &Path, folder: &Path) -> Result<(), String> {
    empty(folder)?;
    // A socket's path is short, so it cannot lie in the checkout.
    let sockets = Path::new("/run").join(format!("fingerpost-image-{}", std::process::id()));
    let socket = sockets.join("containerd.sock");
    let config = folder.join("config.toml");
    let text = format!(
        "version = 2\nroot = \"{0}/root\"\nstate = \"{1}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = \"{2}\"\n",
        folder.display(),
        sockets.display(),
        socket.display()
    );
    super::write(&config, text.as_bytes())?;
    let mut command = Command::new("containerd");
    command.arg("--config").arg(&config);
    let mut containerd = Running::start(&mut command, &folder.join("log"))?;
    let ctr = |words: &[&str]| {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(&socket).args(words);
        ctr
    };
    containerd.wait_until("answer", Duration::from_secs(60), || {
        succeeds(&mut ctr(&["version"]))
    })?;
    let import = ctr(&["image", "import"]).arg(archive).status();
    let checked = output(&mut ctr(&["image", "check"]));
    drop(containerd);
    let _ = std::fs::remove_dir_all(&sockets);
    if !import.is_ok_and(|status| status.success()) {
        return Err("containerd does not take the archive".into());
    }
    let checked = checked?;
    let name = format!("docker.io/library/fingerpost:{VERSION}");
    let complete = checked
        .lines()
        .any(|line| line.starts_with(&name) && line.contains("complete (2/2)"));
    if complete {
        Ok(())
    } else {
        Err(format!("containerd does not find all of it:\n{checked}"))
    }
}

/// A bundle for runc, with the user and the entry point that the image names.
pub fn unpack(archive: &Path, folder: &Path) -> Result<PathBuf, String> {
    let layout = folder.join("layout");
    empty(&layout)?;
    run(Command::new("tar")
        .arg("--extract")
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(&layout))?;
    let bundle = folder.join("bundle");
    if bundle.exists() {
        std::fs::remove_dir_all(&bundle)
            .map_err(|error| format!("{}: {error}", bundle.display()))?;
    }
    let image = format!("{}:{VERSION}", layout.display());
    output(
        Command::new("umoci")
            .args(["unpack", "--image", &image])
            .arg(&bundle),
    )?;
    Ok(bundle)
}

/// What the kubelet makes of the pod in `deploy/base`.
fn as_in_a_pod(bundle: &Path, folder: &Path) -> Result<(), String> {
    let mounts = folder.join("mounts");
    empty(&mounts)?;
    super::write(&mounts.join("Corefile"), COREFILE.as_bytes())?;
    super::write(
        &mounts.join("hosts"),
        b"127.0.0.1 localhost upstream.example\n",
    )?;
    let path = bundle.join("config.json");
    let mut config: Value =
        serde_json::from_slice(&read(&path)?).map_err(|error| error.to_string())?;
    let hosts = mounts.join("hosts");
    pod_like(
        &mut config,
        &[(&mounts, "/etc/coredns"), (&hosts, "/etc/hosts")],
    )?;
    super::write(&path, config.to_string().as_bytes())
}

/// The rights and arguments of `deploy/base`, and what is mounted where.
pub fn pod_like(config: &mut Value, mounts: &[(&Path, &str)]) -> Result<(), String> {
    let rights = json!(["CAP_NET_BIND_SERVICE"]);
    config["process"]["capabilities"] =
        json!({"bounding": rights, "effective": rights, "permitted": rights});
    config["process"]["noNewPrivileges"] = json!(true);
    config["process"]["terminal"] = json!(false);
    config["root"]["readonly"] = json!(true);
    let entry = config["process"]["args"]
        .as_array_mut()
        .ok_or("the image has no entry point")?;
    entry.extend([json!("-conf"), json!("/etc/coredns/Corefile")]);
    let all = config["mounts"]
        .as_array_mut()
        .ok_or("the bundle has no mounts")?;
    // umoci lends the machine's files; the kubelet has its own.
    all.retain(|mount| mounts.iter().all(|&(_, path)| mount["destination"] != path));
    for (source, destination) in mounts {
        let options = ["rbind", "ro", "rprivate"];
        all.push(json!({
            "type": "bind", "source": source, "destination": destination, "options": options
        }));
    }
    Ok(())
}

fn serve(bundle: &Path, folder: &Path) -> Result<(), String> {
    let state = folder.join("runc");
    let runc = |words: &[&str]| {
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(&state).args(words);
        runc
    };
    // What an earlier run may have left behind.
    let _ = output(&mut runc(&["delete", "--force", CONTAINER]));
    let log = folder.join("container.log");
    let mut command = runc(&["run", "--bundle"]);
    command.arg(bundle).arg(CONTAINER);
    let mut running = Running::start(&mut command, &log)?;
    let pid = || {
        let said = output(&mut runc(&["state", CONTAINER])).ok()?;
        let state: Value = serde_json::from_str(&said).ok()?;
        state["pid"].as_u64().map(|pid| pid.to_string())
    };
    let ask = |name: &str, flag: &str| {
        let mut dig = Command::new("nsenter");
        dig.args(["--target", &pid()?, "--net", "dig", "@127.0.0.1", "+short"])
            .args(["+tries=1", "+time=2", flag, name]);
        Some(output(&mut dig).ok()?.trim().to_owned())
    };
    let up = running.wait_until("answer", Duration::from_secs(30), || {
        ask("a.example", "+notcp").as_deref() == Some("10.0.0.1")
    });
    let checked = up.and_then(|()| {
        for (name, flag, expected) in [
            ("a.example", "+tcp", "10.0.0.1"),
            ("b.example", "+notcp", "10.0.0.2"),
        ] {
            let answer = ask(name, flag).unwrap_or_default();
            if answer != expected {
                return Err(format!("{name} {flag}: `{answer}`, not {expected}"));
            }
        }
        let pid = pid().ok_or("the container ended")?;
        has_only_its_right(&pid)?;
        has_random_numbers_from_the_kernel(&pid)
    });
    drop(running);
    let _ = output(&mut runc(&["delete", "--force", CONTAINER]));
    checked.map_err(|error| {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        format!("/{}: {error}\n{said}", layer::PROGRAM)
    })
}

/// Nobody's user, and CAP_NET_BIND_SERVICE alone.
fn has_only_its_right(pid: &str) -> Result<(), String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(|error| format!("process {pid}: {error}"))?;
    for expected in [
        "Uid:\t65532\t65532\t65532\t65532",
        "CapEff:\t0000000000000400",
        "NoNewPrivs:\t1",
    ] {
        if !status.lines().any(|line| line == expected) {
            return Err(format!("no `{expected}` in\n{status}"));
        }
    }
    Ok(())
}

/// By the system call: whatever a static program does not find in the C library, it would take from a device.
fn has_random_numbers_from_the_kernel(pid: &str) -> Result<(), String> {
    let folder = format!("/proc/{pid}/fd");
    let open = std::fs::read_dir(&folder).map_err(|error| format!("{folder}: {error}"))?;
    for entry in open.flatten() {
        if let Ok(target) = std::fs::read_link(entry.path())
            && target.ends_with("urandom")
        {
            return Err(format!("it reads {}", target.display()));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn empty(folder: &Path) -> Result<(), String> {
    let said = |error| format!("{}: {error}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(said)?;
    }
    std::fs::create_dir_all(folder).map_err(said)
}
