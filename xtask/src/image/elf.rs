//! What an ELF header says: the machine, and whether the program needs a loader that an image of ours does not have.

/// A machine that images are made for, by its name in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    Amd64,
    Arm64,
}

/// `e_machine` of x86-64 and AArch64.
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;

/// The program header that names a dynamic loader.
const PT_INTERP: u32 = 3;

/// Octets of an ELF header and of a program header of 64 bits.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

impl Machine {
    /// By Go's name, which is OCI's.
    pub fn from_name(name: &str) -> Result<Self, String> {
        match name {
            "amd64" => Ok(Self::Amd64),
            "arm64" => Ok(Self::Arm64),
            _ => Err(format!("`{name}` is neither `amd64` nor `arm64`")),
        }
    }

    /// The one that this program runs on.
    pub fn here() -> Result<Self, String> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => Err(format!("no image is made for `{other}`")),
        }
    }

    /// Go's name, which is OCI's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The compiler's name.
    pub fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }
}

/// The machine of a static program; an error if it is anything else.
pub fn machine_of_static(octets: &[u8]) -> Result<Machine, String> {
    const ELF_64_LITTLE: &[u8] = b"\x7fELF\x02\x01";
    let header = octets.get(..HEADER).ok_or("not a program")?;
    if !header.starts_with(ELF_64_LITTLE) {
        return Err("not an ELF program of 64 bits, little endian".into());
    }
    let machine = match half(header, 18) {
        EM_X86_64 => Machine::Amd64,
        EM_AARCH64 => Machine::Arm64,
        other => return Err(format!("made for machine {other}, not amd64 or arm64")),
    };
    let start: [u8; 8] = header[32..40].try_into().expect("8 octets are 8 octets");
    let start = usize::try_from(u64::from_le_bytes(start)).map_err(|error| error.to_string())?;
    let table = octets.get(start..).unwrap_or_default();
    let count = usize::from(half(header, 56));
    let entries = table.chunks_exact(PROGRAM_HEADER).take(count);
    if entries.len() < count {
        return Err("cut off within its program headers".into());
    }
    for entry in entries {
        let kind: [u8; 4] = entry[..4].try_into().expect("4 octets are 4 octets");
        if u32::from_le_bytes(kind) == PT_INTERP {
            return Err("linked dynamically: an image without a loader cannot run it".into());
        }
    }
    Ok(machine)
}

fn half(octets: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([octets[at], octets[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::{Machine, machine_of_static};

    /// A header, then one program header of this kind.
    fn program(machine: u16, kind: u32) -> Vec<u8> {
        let mut octets = vec![0; 64 + 56];
        octets[..6].copy_from_slice(b"\x7fELF\x02\x01");
        octets[18..20].copy_from_slice(&machine.to_le_bytes());
        octets[32] = 64;
        octets[56] = 1;
        octets[64..68].copy_from_slice(&kind.to_le_bytes());
        octets
    }

    #[test]
    fn a_static_program_tells_its_machine() {
        assert_eq!(machine_of_static(&program(62, 1)), Ok(Machine::Amd64));
        assert_eq!(machine_of_static(&program(183, 1)), Ok(Machine::Arm64));
    }

    #[test]
    fn what_an_image_could_not_run_is_refused() {
        let refused = |octets: &[u8]| machine_of_static(octets).expect_err("it must not pass");
        assert!(refused(&program(62, 3)).contains("linked dynamically"));
        assert!(refused(&program(40, 1)).contains("machine 40"));
        assert!(refused(&program(62, 1)[..100]).contains("cut off"));
        assert!(refused(b"#!/bin/sh\n").contains("not a program"));
        // The very program that runs this test is dynamic.
        let own = std::env::current_exe().and_then(std::fs::read);
        assert!(refused(&own.expect("it runs")).contains("linked dynamically"));
    }
}
