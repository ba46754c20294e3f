//! Parses flags, calls the library, turns its result into an exit code.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;
use std::time::Duration;

use fingerpost::check;
use fingerpost::cli::{self, Command, Options, UsageError};
use fingerpost::corefile::render::Color;

/// How long tasks that block may hold up the end of the process.
const SHUTDOWN_MAX: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help) => print(&cli::help_text()),
        Ok(Command::Version) => print(&cli::version_text()),
        Ok(Command::Plugins) => print(&cli::plugins_text()),
        Ok(Command::Check(options)) => check(&options),
        Ok(Command::Serve(options)) => serve(options),
        Err(UsageError::Flag(message)) => {
            tell(&format!("{message}\n{}", cli::usage_text()));
            ExitCode::from(2)
        }
        Err(UsageError::Value(message)) => {
            tell(&message);
            ExitCode::FAILURE
        }
    }
}

/// Prints to standard output. A reader that went away (`fingerpost --help | head -1`) is no failure.
fn print(text: &str) -> ExitCode {
    let _ = stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// Prints to standard error, ending the line.
fn tell(text: &str) {
    let _ = writeln!(stderr(), "{}", text.trim_end());
}

/// Runs the server on a runtime of its own. Log lines that are still queued at the end are written out.
fn serve(options: Options) -> ExitCode {
    fingerpost::telemetry::logging::init();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tell(&format!("cannot start a runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(fingerpost::server::run(options));
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    fingerpost::telemetry::logging::flush();
    code
}

/// Faults go to standard error, the summary to standard output.
fn check(options: &Options) -> ExitCode {
    let color = if stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        Color::Always
    } else {
        Color::Never
    };
    match check::check(options, color) {
        Ok(verdict) => {
            if !verdict.report.is_empty() {
                tell(&format!("{}\n", verdict.report));
            }
            print(&format!("{}\n", verdict.summary));
            ExitCode::from(u8::from(!verdict.is_sound))
        }
        Err(error) => {
            let path = options.conf.as_deref();
            let path = path.map_or_else(|| "Corefile".into(), |path| path.display().to_string());
            tell(&format!("cannot read the Corefile `{path}`: {error}"));
            ExitCode::FAILURE
        }
    }
}
