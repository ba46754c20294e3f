//! What was checked, by name, and how it went.

use std::time::{Duration, Instant};

/// The table of checks.
pub struct Report {
    part: (String, Instant),
    parts: Vec<(String, Duration)>,
    passed: usize,
    failed: Vec<String>,
}

impl Report {
    pub fn new() -> Self {
        Self {
            part: ("the cluster".into(), Instant::now()),
            parts: Vec::new(),
            passed: 0,
            failed: Vec::new(),
        }
    }

    /// A new part begins; the time of the one before is known.
    pub fn begin(&mut self, name: &str) {
        let (before, start) = std::mem::replace(&mut self.part, (name.to_owned(), Instant::now()));
        self.parts.push((before, start.elapsed()));
        println!("\n--- {name}");
    }

    /// Notes a check. What failed says why.
    pub fn check(&mut self, name: &str, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("PASS {name}");
            }
            Err(why) => {
                println!("FAIL {name}: {why}");
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Prints what took how long; an error if a check failed.
    pub fn close(mut self) -> Result<(), String> {
        self.begin("times");
        for (name, time) in &self.parts {
            println!("{:6.1} s  {name}", time.as_secs_f64());
        }
        let (passed, failed) = (self.passed, self.failed.len());
        println!("{passed} checks passed, {failed} failed");
        if failed == 0 {
            Ok(())
        } else {
            Err(format!(
                "{failed} checks failed: {}",
                self.failed.join(", ")
            ))
        }
    }
}
