//! A row of steps with headings and times, up to the first that fails.

use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How a step that did not fail ended.
pub enum Done {
    /// It ran.
    Passed,
    /// It did not apply here; the text says why.
    Skipped(String),
}

/// Steps so far.
#[derive(Default)]
pub struct Steps {
    finished: Vec<(String, Duration, &'static str)>,
    failed: bool,
    only: Option<String>,
}

impl Steps {
    /// Only the steps with this text in their names.
    pub fn only(text: &str) -> Self {
        Self {
            only: Some(text.to_owned()),
            ..Self::default()
        }
    }

    /// Runs a step, unless one before it failed or it is not wanted.
    pub fn step(&mut self, name: &str, body: impl FnOnce() -> Result<Done, String>) {
        let wanted = self.only.as_deref().is_none_or(|text| name.contains(text));
        if self.failed || !wanted {
            return;
        }
        println!("\n=== {name}");
        let start = Instant::now();
        let result = body();
        let time = start.elapsed();
        let word = match result {
            Ok(Done::Passed) => "passed",
            Ok(Done::Skipped(why)) => {
                println!("skipped: {why}");
                "skipped"
            }
            Err(error) => {
                println!("error: {error}");
                self.failed = true;
                "failed"
            }
        };
        println!("--- {name}: {word} in {:.1} s", time.as_secs_f64());
        self.finished.push((name.to_owned(), time, word));
    }

    /// Prints what became of each step; the last line counts them.
    pub fn close(self) -> ExitCode {
        println!("\n=== summary");
        for (name, time, word) in &self.finished {
            println!("{word:8} {:7.1} s  {name}", time.as_secs_f64());
        }
        let count = |wanted| {
            self.finished
                .iter()
                .filter(|(_, _, word)| *word == wanted)
                .count()
        };
        println!(
            "{} passed, {} failed, {} skipped",
            count("passed"),
            count("failed"),
            count("skipped")
        );
        if self.failed || self.finished.is_empty() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}
