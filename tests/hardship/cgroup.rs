//! A control group of the test's own, of whichever version the host has.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const ROOT: &str = "/sys/fs/cgroup";

/// Removed on drop, when what ran in it has ended.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// Limits CPU time to so many percent of one core.
    pub(crate) fn of_cpu(percent: u32) -> Option<Self> {
        let quota = percent * 1000;
        Self::new(
            "cpu",
            &[("cpu.max", format!("{quota} 100000"))],
            &[
                ("cpu.cfs_period_us", "100000".into()),
                ("cpu.cfs_quota_us", quota.to_string()),
            ],
        )
    }

    /// Limits memory to so many octets, swap included.
    pub(crate) fn of_memory(octets: u64) -> Option<Self> {
        Self::new(
            "memory",
            &[
                ("memory.max", octets.to_string()),
                ("memory.swap.max", "0".into()),
            ],
            &[("memory.limit_in_bytes", octets.to_string())],
        )
    }

    /// With these files, by the version of the controller's hierarchy. None where that cannot be made.
    fn new(controller: &str, unified: &[(&str, String)], first: &[(&str, String)]) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fingerpost-test-{}-{number}", std::process::id());
        let root = Path::new(ROOT);
        let (parent, files) = if root.join("cgroup.controllers").exists() {
            let _ = std::fs::write(
                root.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
            (root.to_owned(), unified)
        } else {
            (root.join(controller), first)
        };
        let this = Self(parent.join(name));
        let made = std::fs::create_dir(&this.0).and_then(|()| {
            files
                .iter()
                .try_for_each(|(file, text)| std::fs::write(this.0.join(file), text))
        });
        if let Err(error) = made {
            eprintln!("skipped: no control group for {controller}: {error}");
            return None;
        }
        Some(this)
    }

    /// A line for the shell by which it enters.
    pub(crate) fn entrance(&self) -> String {
        format!("echo $$ >{}/cgroup.procs", self.0.display())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel takes a moment to see that a process that was waited for has left.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            crate::lab::rest();
        }
    }
}
