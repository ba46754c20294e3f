//! Reading within bounds, and writing in one step: whoever looks sees the old file or the new one.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::snapshot::format::SIZE_MAX;

/// A temporary file as old as this was left by a process that was killed.
const LEFT_AFTER: Duration = Duration::from_secs(600);

/// Random octets in the name of a temporary file: several processes may share the folder.
const RANDOM_LEN: usize = 8;

/// Reads a whole file; none if there is none.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    // A pipe would never end.
    if !found.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let too_large = || io::Error::other(format!("it has more than {} MiB", SIZE_MAX >> 20));
    let len = usize::try_from(found.len()).map_err(|_| too_large())?;
    if len > SIZE_MAX {
        return Err(too_large());
    }
    let mut octets = Vec::with_capacity(len);
    let mut file = File::open(path)?.take(SIZE_MAX as u64 + 1);
    file.read_to_end(&mut octets)?;
    if octets.len() > SIZE_MAX {
        return Err(too_large());
    }
    Ok(Some(octets))
}

/// Puts what `write` writes in the place of a file, once it is on the disk. After an error the old file stands.
pub fn replace<T>(path: &Path, write: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
    let (folder, prefix) = place_of(path)?;
    let mut random = [0; RANDOM_LEN];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let number = u64::from_ne_bytes(random);
    let temporary = Temporary(folder.join(format!("{prefix}{number:016x}{SUFFIX}")));
    let file = File::options()
        .write(true)
        .create_new(true)
        // Whoever has an account on a node need not know what runs in the cluster.
        .mode(0o600)
        .open(&temporary.0)?;
    let written = write(&file)?;
    file.sync_all()?;
    fs::rename(&temporary.0, path)?;
    // The name itself. Where a folder cannot be synced, a power failure may bring the old file back, which is whole too.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(written)
}

const SUFFIX: &str = ".tmp";

/// Removed however the writing ends; after it was renamed there is nothing to remove.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The folder of a file, and what the names of its temporary files begin with.
fn place_of(path: &Path) -> io::Result<(&Path, String)> {
    let name = path
        .file_name()
        .ok_or(io::Error::other("it names no file"))?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let prefix = format!(".{}.", name.to_string_lossy());
    Ok((folder.unwrap_or(Path::new(".")), prefix))
}

/// Removes what killed processes have left of writing this file.
pub fn sweep(path: &Path) {
    let Ok((folder, prefix)) = place_of(path) else {
        return;
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let middle = name
            .strip_prefix(&prefix)
            .and_then(|rest| rest.strip_suffix(SUFFIX));
        let is_ours = middle.is_some_and(|middle| {
            middle.len() == 2 * RANDOM_LEN && middle.bytes().all(|octet| octet.is_ascii_hexdigit())
        });
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        if is_ours && age().is_some_and(|age| age >= LEFT_AFTER) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::SystemTime;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("it is there").flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn until_all_is_written_the_old_file_stands_and_after_an_error_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cluster");
        let read = || read(&path).expect("readable");
        assert_eq!(read(), None);
        replace(&path, |mut file| file.write_all(b"one")).expect("written");
        replace(&path, |mut file| {
            file.write_all(b"two")?;
            assert_eq!(read().as_deref(), Some(&b"one"[..]));
            Ok(())
        })
        .expect("written");
        let failed = replace(&path, |mut file| {
            file.write_all(b"th")?;
            Err::<(), _>(io::Error::other("the disk is full"))
        });
        assert!(failed.is_err());
        assert_eq!(read().as_deref(), Some(&b"two"[..]));
        assert_eq!(names(folder.path()), ["cluster"], "nothing is left behind");
    }

    #[test]
    fn what_is_no_file_or_too_large_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(read(folder.path()).is_err());
        let path = folder.path().join("large");
        let file = File::create(&path).expect("writable");
        file.set_len(SIZE_MAX as u64 + 1).expect("a hole");
        let error = read(&path).expect_err("too large");
        assert_eq!(error.to_string(), "it has more than 128 MiB");
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_another_writes_now_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cluster");
        let make = |name: &str, age: Duration| {
            let file = File::create(folder.path().join(name)).expect("writable");
            file.set_modified(SystemTime::now() - age).expect("its own");
        };
        make(".cluster.0123456789abcdef.tmp", LEFT_AFTER * 2);
        make(".cluster.0123456789abcdee.tmp", Duration::ZERO);
        make(".cluster.notes.tmp", LEFT_AFTER * 2);
        make(".other.0123456789abcdef.tmp", LEFT_AFTER * 2);
        sweep(&path);
        assert_eq!(
            names(folder.path()),
            [
                ".cluster.0123456789abcdee.tmp",
                ".cluster.notes.tmp",
                ".other.0123456789abcdef.tmp"
            ]
        );
    }
}
