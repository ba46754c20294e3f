//! A control plane with a cluster of some size in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::bench::api::Api;
use crate::bench::objects::Size;
use crate::bench::{dns, etcd};
use crate::command::succeeds;
use crate::control_plane::ControlPlane;
use crate::{paths, provision};

pub struct Bed {
    pub control_plane: ControlPlane,
    pub api: Api,
    pub folder: PathBuf,
    /// Of the upstream that all servers forward to.
    pub upstream: u16,
}

impl Bed {
    /// Starts it and fills it.
    pub fn start(size: Size) -> Result<Self, String> {
        provision::programs()?;
        let folder = paths::target().join("bench");
        stop_leftovers(&folder);
        let control_plane = ControlPlane::start(&folder.join("control-plane"))?;
        let started = Instant::now();
        let count = etcd::put_all(control_plane.etcd_port(), size.objects())?;
        println!(
            "put {count} objects into etcd in {:.1} s",
            started.elapsed().as_secs_f64()
        );
        let bed = Self {
            api: Api::of(&control_plane)?,
            control_plane,
            folder,
            upstream: dns::start_upstream()?,
        };
        bed.wait_caught_up(size)?;
        Ok(bed)
    }

    /// Waits until the API server's own watches have all objects, so that nobody measures how fast it is.
    fn wait_caught_up(&self, size: Size) -> Result<(), String> {
        let mut wanted = Vec::new();
        if let Some(last) = size.services.checked_sub(1) {
            let namespace = size.namespace_of(last);
            wanted.push(format!(
                "/api/v1/namespaces/{namespace}/services/svc-{last}"
            ));
        }
        if let Some(last) = size.pods.checked_sub(1) {
            let namespace = size.namespace_of(last);
            wanted.push(format!(
                "/api/v1/namespaces/{namespace}/pods/pod-7d9f8b6c5d-{last:06x}"
            ));
        }
        let mut connection = self.api.connect()?;
        for path in wanted {
            // Version 0 means: as the watch cache has it.
            let path = format!("{path}?resourceVersion=0");
            let end = Instant::now() + Duration::from_secs(180);
            while connection.request("GET", &path, None)?.0 != 200 {
                if Instant::now() > end {
                    return Err(format!("the API server does not come to know {path}"));
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        // The other writers of `put_all` ended at the same time; their last events come within this.
        std::thread::sleep(Duration::from_secs(3));
        Ok(())
    }

    /// Starts the API server again after it was killed; returns when it is ready.
    pub fn restart_api_server(&mut self) -> Result<Instant, String> {
        self.control_plane.start_api_server()?;
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            if self.api.is_ready() {
                return Ok(Instant::now());
            }
            if Instant::now() > end {
                return Err("the API server does not come back".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What benches start.
const STARTED: [&str; 8] = [
    "etcd",
    "kube-apiserver",
    "fingerpost",
    "coredns",
    "knotd",
    "nsd",
    "unbound",
    "dnsdist",
];

/// Stops what a run that was interrupted left behind: programs that were given our folder, and no other.
fn stop_leftovers(folder: &Path) {
    let ours = folder.to_string_lossy().into_owned();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return;
    };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(id) = name
            .to_str()
            .filter(|id| id.bytes().all(|octet| octet.is_ascii_digit()))
        else {
            continue;
        };
        let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        let program = arguments.split('\0').next().unwrap_or_default();
        let is_started_by_us = STARTED.iter().any(|name| {
            program
                .rsplit('/')
                .next()
                .is_some_and(|file| file.starts_with(name))
        });
        if is_started_by_us && arguments.contains(&format!("{ours}/")) {
            println!("stopping {program} of a run that was interrupted");
            succeeds(Command::new("kill").args(["-9", id]));
        }
    }
}
