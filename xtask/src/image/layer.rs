//! The one layer: everything that is in the image.

use tar::{Builder, EntryType, Header};

use super::authorities;

/// Where the program lies, and where the images of CoreDNS have theirs: a manifest that says `command: [/coredns]`
/// needs no other change.
pub const PROGRAM: &str = "fingerpost";
pub const ALIAS: &str = "coredns";

/// CAP_NET_BIND_SERVICE, as capability(7) numbers it.
const NET_BIND_SERVICE: u32 = 10;

/// The file capability `cap_net_bind_service=ep`, as the kernel keeps it in the attribute (`struct vfs_cap_data`).
///
/// A container's process that is not root loses its capabilities when the program starts, unless the file gives them
/// back. The effective bit makes a start without the right fail at once ("operation not permitted"), as CoreDNS' image
/// does, not later at the port.
fn capability() -> [u8; 20] {
    const REVISION_2: u32 = 0x0200_0000;
    const EFFECTIVE: u32 = 1;
    let mut octets = [0; 20];
    octets[..4].copy_from_slice(&(REVISION_2 | EFFECTIVE).to_le_bytes());
    octets[4..8].copy_from_slice(&(1_u32 << NET_BIND_SERVICE).to_le_bytes());
    octets
}

/// The layer as a tar file. Its octets depend on the program and the lock file alone: no time, no user, no path.
pub fn uncompressed(program: &[u8]) -> Result<Vec<u8>, String> {
    build(program).map_err(|error| format!("the image's layer: {error}"))
}

fn build(program: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for folder in ["etc/", "etc/ssl/", "etc/ssl/certs/"] {
        let mut header = header(EntryType::Directory, 0o755, 0);
        tar.append_data(&mut header, folder, &[][..])?;
    }
    let pem = authorities::pem();
    let mut file = header(EntryType::Regular, 0o644, pem.len());
    tar.append_data(&mut file, authorities::PATH, pem.as_bytes())?;
    let capability = capability();
    tar.append_pax_extensions([("SCHILY.xattr.security.capability", &capability[..])])?;
    let mut file = header(EntryType::Regular, 0o755, program.len());
    tar.append_data(&mut file, PROGRAM, program)?;
    let mut link = header(EntryType::Symlink, 0o777, 0);
    tar.append_link(&mut link, ALIAS, PROGRAM)?;
    tar.into_inner()
}

fn header(kind: EntryType, mode: u32, len: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(len as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::{PROGRAM, uncompressed};

    #[test]
    fn the_layer_holds_the_program_its_alias_and_authorities_and_nothing_else() {
        let octets = uncompressed(b"program").expect("memory takes it");
        let mut archive = tar::Archive::new(&octets[..]);
        let mut found = BTreeMap::new();
        for entry in archive.entries().expect("a tar file") {
            let entry = entry.expect("an entry");
            let header = entry.header();
            assert_eq!(header.mtime().ok(), Some(0));
            assert_eq!((header.uid().ok(), header.gid().ok()), (Some(0), Some(0)));
            let path = entry.path().expect("a path").display().to_string();
            found.insert(path, header.mode().expect("a mode"));
        }
        let files: Vec<_> = found
            .iter()
            .map(|(path, &mode)| (&path[..], mode))
            .collect();
        assert_eq!(
            files,
            [
                ("coredns", 0o777),
                ("etc/", 0o755),
                ("etc/ssl/", 0o755),
                ("etc/ssl/certs/", 0o755),
                ("etc/ssl/certs/ca-certificates.crt", 0o644),
                ("fingerpost", 0o755),
            ]
        );
    }

    #[test]
    fn the_program_may_bind_port_53_and_has_no_other_right() {
        let octets = uncompressed(b"program").expect("memory takes it");
        let mut archive = tar::Archive::new(&octets[..]);
        let entries = archive.entries().expect("a tar file");
        let mut seen = Vec::new();
        for entry in entries {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            let Some(extensions) = entry.pax_extensions().expect("readable") else {
                continue;
            };
            for extension in extensions {
                let extension = extension.expect("readable");
                let key = extension.key().expect("text").to_owned();
                seen.push((path.clone(), key, extension.value_bytes().to_vec()));
            }
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("in memory");
            assert_eq!(content, b"program");
        }
        // What `setcap cap_net_bind_service=ep` writes, from `getfattr -e hex`.
        let mut expected = vec![1, 0, 0, 2, 0, 4];
        expected.resize(20, 0);
        let key = "SCHILY.xattr.security.capability".to_owned();
        assert_eq!(seen, [(PROGRAM.to_owned(), key, expected)]);
    }

    #[test]
    fn the_same_program_gives_the_same_layer() {
        assert_eq!(uncompressed(b"program"), uncompressed(b"program"));
        assert_ne!(uncompressed(b"program"), uncompressed(b"another"));
    }
}
