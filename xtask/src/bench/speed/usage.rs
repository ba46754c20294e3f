//! What a program and its children have used: time of the processor and memory, as the kernel counts them.

use std::fs;

/// Ticks of `/proc/PID/stat`, on every Linux.
const TICK: f64 = 0.01;

/// Since the start of each process, of all together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    user: f64,
    kernel: f64,
    /// Seconds of both, exact to nanoseconds.
    total: f64,
}

impl Usage {
    /// Of the process and its descendants that live now.
    pub fn of(process: u32) -> Self {
        let mut usage = Self::default();
        for id in family(process) {
            let Some(stat) = Stat::of(id) else { continue };
            usage.user += stat.user;
            usage.kernel += stat.kernel;
            usage.total += scheduled(id).unwrap_or(stat.user + stat.kernel);
        }
        usage
    }

    /// Seconds in user space and in the kernel since then. The sum is exact; how it divides comes from the scheduler's
    /// samples, which are ten milliseconds apart or less.
    pub fn since(self, before: Self) -> [f64; 2] {
        let (user, kernel) = (self.user - before.user, self.kernel - before.kernel);
        let total = self.total - before.total;
        let part = if user + kernel > 0.0 {
            user / (user + kernel)
        } else {
            0.5
        };
        [total * part, total * (1.0 - part)]
    }
}

/// Megabytes that the process and its descendants hold, and held at most.
pub fn memory(process: u32) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for id in family(process) {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        for (sum, field) in sums.iter_mut().zip(["VmRSS:", "VmHWM:"]) {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let kilobytes = line.and_then(|text| text.split_whitespace().next()?.parse().ok());
            *sum += kilobytes.unwrap_or(0.0) / 1024.0;
        }
    }
    sums
}

struct Stat {
    parent: u32,
    user: f64,
    kernel: f64,
}

impl Stat {
    fn of(process: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
    }

    /// Fields are counted behind the name, which may have spaces and brackets.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            user: ticks(11)? * TICK,
            kernel: ticks(12)? * TICK,
        })
    }
}

/// Seconds on a processor of all threads that live now.
fn scheduled(process: u32) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let mut sum = 0.0;
    for thread in threads.flatten() {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        sum += text.split_whitespace().next()?.parse::<f64>().ok()? / 1e9;
    }
    (sum > 0.0).then_some(sum)
}

/// The process and its descendants.
fn family(process: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: Vec<(u32, u32)> = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|id| Some((id, Stat::of(id)?.parent)))
        .collect();
    let mut family = vec![process];
    let mut at = 0;
    while let Some(&parent) = family.get(at) {
        let children = parents.iter().filter(|(_, of)| *of == parent);
        family.extend(children.map(|(id, _)| id));
        at += 1;
    }
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes_may_hold_anything() {
        let text = "42 (a) b (c) S 7 1 1 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 1 1 1";
        let stat = Stat::parse(text).expect("it is one");
        assert_eq!((stat.parent, stat.user, stat.kernel), (7, 2.5, 0.5));
        assert!(Stat::parse("42 a S 7").is_none());
    }

    #[test]
    fn what_this_process_does_is_counted() {
        let own = std::process::id();
        let before = Usage::of(own);
        let start = std::time::Instant::now();
        while start.elapsed().as_millis() < 50 {}
        let [user, kernel] = Usage::of(own).since(before);
        // Other tests run on other threads of this process.
        assert!(user + kernel > 0.01, "{user} {kernel}");
        let [now, most] = memory(own);
        assert!(now > 1.0 && most >= now, "{now} {most}");
    }
}
