//! How much memory the process may take: the limits of its cgroup and of those around it.
//!
//! ```text
//! /proc/self/cgroup     4:memory:/pods/a      0::/pods/a        where we are in which hierarchy
//! /proc/self/mountinfo  /pods/a /sys/fs/cgroup/memory … cgroup  which part of it is mounted where
//!   => /sys/fs/cgroup/memory, and every folder from there down to where we are
//! ```
//!
//! Both versions may be there at once, and a limit may stand on any level: the least one counts. What cannot be read
//! limits nothing.

use std::fs;
use std::path::{Path, PathBuf};

/// Past this no limit is meant: version 1 writes a number of 63 bits where there is none.
const UNLIMITED: u64 = 1 << 60;

/// The files of a cgroup that hold limits: the two of version 2, then that of version 1. At `memory.high` a cgroup is not
/// killed but held up, which is no better for who waits for answers.
const FILES: [&str; 3] = ["memory.max", "memory.high", "memory.limit_in_bytes"];

/// Octets that the process may take before it is held up or killed; none if there is no limit.
pub fn limit() -> Option<u64> {
    limit_below(Path::new("/"))
}

/// The same for a file system below `root`.
fn limit_below(root: &Path) -> Option<u64> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let (cgroups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let places = cgroups.lines().filter_map(Place::of);
    places
        .flat_map(|place| place.folders(&mounts))
        .flat_map(|folder| FILES.map(|file| root.join(&folder).join(file)))
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
        .filter(|&octets| octets < UNLIMITED)
        .min()
}

/// Where we are in a hierarchy that limits memory.
struct Place<'t> {
    is_unified: bool,
    path: &'t str,
}

impl<'t> Place<'t> {
    /// From a line of `/proc/self/cgroup`: `ID:CONTROLLERS:PATH`.
    fn of(line: &'t str) -> Option<Self> {
        let mut parts = line.splitn(3, ':');
        let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let is_unified = id == "0" && controllers.is_empty();
        let limits_memory = is_unified || controllers.split(',').any(|one| one == "memory");
        limits_memory.then_some(Self { is_unified, path })
    }

    /// The folders of our cgroup and of all around it, as far as they are mounted; without the slash in front.
    fn folders(&self, mounts: &str) -> Vec<PathBuf> {
        let Some((root, mount)) = mounts.lines().find_map(|line| self.mount(line)) else {
            return Vec::new();
        };
        // In a container the mount begins where we are, or, without a namespace for cgroups, at a path that we do not see
        // from within: then the mount itself is our cgroup.
        let within = Path::new(self.path)
            .strip_prefix(root)
            .unwrap_or(Path::new(""));
        let mount = mount.trim_start_matches('/');
        within
            .ancestors()
            .map(|folder| Path::new(mount).join(folder))
            .collect()
    }

    /// Root and mount point, if a line of `/proc/self/mountinfo` is the hierarchy's: `ID PARENT DEVICE ROOT POINT
    /// OPTIONS [MORE...] - TYPE SOURCE OPTIONS`.
    fn mount<'m>(&self, line: &'m str) -> Option<(&'m str, &'m str)> {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1)?);
        let is_ours = match name {
            "cgroup2" => self.is_unified,
            "cgroup" => !self.is_unified && options.split(',').any(|option| option == "memory"),
            _ => false,
        };
        is_ours.then_some((root, point))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1_MOUNT: &str = "30 25 0:26 ROOT /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    const V2_MOUNT: &str =
        "29 23 0:26 ROOT /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";

    /// The limit with these cgroups, mounts (with what of the hierarchy is mounted) and files below `/sys/fs/cgroup`.
    fn limit(cgroups: &str, mounts: &[(&str, &str)], files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let mounts: String = mounts
            .iter()
            .map(|(line, root)| line.replace("ROOT", root))
            .collect();
        write("proc/self/cgroup", cgroups);
        write("proc/self/mountinfo", &mounts);
        for (path, text) in files {
            write(&format!("sys/fs/cgroup/{path}"), text);
        }
        limit_below(root.path())
    }

    #[test]
    fn in_a_container_the_limit_stands_at_the_mount() {
        let files = [("memory.max", "178257920\n"), ("memory.high", "max\n")];
        assert_eq!(
            limit("0::/\n", &[(V2_MOUNT, "/")], &files),
            Some(178_257_920)
        );
        let files = [("memory/memory.limit_in_bytes", "178257920\n")];
        let own = "4:memory:/kubepods/pod1/c1\n0::/\n";
        // With the path of the host outside, as version 1 shows it without a namespace.
        for root in ["/", "/kubepods/pod1/c1"] {
            assert_eq!(limit(own, &[(V1_MOUNT, root)], &files), Some(178_257_920));
        }
    }

    #[test]
    fn of_nested_limits_the_least_counts() {
        let files = [
            ("memory.max", "4000\n"),
            ("pods/memory.max", "2000\n"),
            ("pods/a/memory.max", "3000\n"),
            ("pods/b/memory.max", "10\n"),
        ];
        let limit_at = |path: &str| limit(path, &[(V2_MOUNT, "/")], &files);
        assert_eq!(limit_at("0::/pods/a\n"), Some(2000));
        assert_eq!(limit_at("0::/elsewhere\n"), Some(4000));
    }

    #[test]
    fn both_versions_at_once_are_looked_at() {
        let mounts = [(V1_MOUNT, "/"), (V2_MOUNT, "/")];
        let files = [
            ("memory/a/memory.limit_in_bytes", "500\n"),
            ("b/memory.high", "400\n"),
        ];
        let own = "7:cpu,memory:/a\n0::/b\n";
        assert_eq!(limit(own, &mounts, &files), Some(400));
        assert_eq!(limit(own, &mounts[..1], &files), Some(500));
    }

    #[test]
    fn without_a_limit_there_is_none() {
        let files = [
            ("memory.max", "max\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        let mounts = [(V1_MOUNT, "/"), (V2_MOUNT, "/")];
        assert_eq!(limit("4:memory:/\n0::/\n", &mounts, &files), None);
        assert_eq!(limit("", &[], &[]), None);
        assert_eq!(
            limit("nonsense\n0::\n", &[("ROOT - - \n", "")], &files),
            None
        );
    }
}
