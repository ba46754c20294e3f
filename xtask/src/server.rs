//! Programs started for a while, on loopback only, and stopped when they go out of scope.

use std::fs::File;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

// The tests start servers beside clients too.
#[path = "../../tests/support/free_port.rs"]
mod port;

/// A running program; stopped on drop.
pub struct Running {
    child: Child,
    name: String,
}

impl Running {
    /// Starts it; what it prints goes to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let failed = |error| format!("{name}: {error}");
        let out = File::create(log).map_err(failed)?;
        let err = out.try_clone().map_err(failed)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(failed)?;
        Ok(Self { child, name })
    }

    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Kills it, without a chance to say goodbye.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Leaves it running behind.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    /// Waits until `ready` holds; an error if it does not in time or the program ends before.
    pub fn wait_until(
        &mut self,
        what: &str,
        time: Duration,
        ready: impl Fn() -> bool,
    ) -> Result<(), String> {
        let end = Instant::now() + time;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended before {what}: {status}", self.name));
            }
            if ready() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!(
                    "{}: no {what} within {} s",
                    self.name,
                    time.as_secs()
                ));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Once it has been waited for, its number may be another's.
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // SIGTERM first, so that etcd and kube-apiserver close their files.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port on loopback that is free for UDP and TCP now.
pub fn free_port() -> Result<u16, String> {
    port::find().ok_or_else(|| "no free port on loopback".into())
}

/// Whether a DNS server on this port answers anything at all.
pub fn answers(port: u16) -> bool {
    // Header with ID 1 and RD, then the root's SOA.
    let query = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 1];
    let ask = || {
        let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .ok()?;
        socket.connect(("127.0.0.1", port)).ok()?;
        socket.send(&query).ok()?;
        socket.recv(&mut [0; 4096]).ok()
    };
    ask().is_some()
}
