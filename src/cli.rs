//! The command line: CoreDNS' flags, and the subcommand `check`.
//!
//! Flags are read as Go reads them, so that every manifest that starts CoreDNS starts us: one dash or two, the value
//! behind `=` or in the next argument, and no flag after the first argument that is none.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::plugin::PLUGINS;

/// What this build is called by itself.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from; empty if the build was not told in `FINGERPOST_COMMIT`.
pub const COMMIT: &str = match option_env!("FINGERPOST_COMMIT") {
    Some(commit) => commit,
    None => "",
};

/// The compiler it was built with.
pub const RUSTC: &str = env!("FINGERPOST_RUSTC");

/// What the server is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The Corefile: a path, or `stdin`; none means `./Corefile`, else the built-in one.
    pub conf: Option<PathBuf>,
    /// The port of plain DNS keys that name none.
    pub port: u16,
    /// Where to write our process ID.
    pub pidfile: Option<PathBuf>,
    /// Leaves the zones and the version out at start.
    pub quiet: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            conf: None,
            port: 53,
            pidfile: None,
            quiet: false,
        }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve.
    Serve(Options),
    /// Read the Corefile, tell what is wrong with it, and end. A path of `-` is standard input, as `stdin` is.
    Check(Options),
    /// Print the version.
    Version,
    /// Print the plugins.
    Plugins,
    /// Print how to use it.
    Help,
}

/// Why a command line cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsageError {
    /// A flag is wrong: the usage is worth showing; exit 2.
    Flag(String),
    /// The flags are fine, but not what they say; exit 1.
    Value(String),
}

/// The flags of this program.
#[derive(Default)]
struct Flags {
    conf: Option<PathBuf>,
    port: Option<String>,
    pidfile: Option<PathBuf>,
    quiet: bool,
    version: bool,
    plugins: bool,
    help: bool,
}

/// Reads the arguments behind the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut args: VecDeque<OsString> = args.into_iter().collect();
    if args.front().is_some_and(|first| first == "check") {
        args.pop_front();
        return parse_check(args);
    }
    let mut flags = Flags::default();
    flags.read(&mut args)?;
    if flags.help {
        return Ok(Command::Help);
    }
    if !args.is_empty() {
        return Err(extra(args));
    }
    if flags.version {
        return Ok(Command::Version);
    }
    if flags.plugins {
        return Ok(Command::Plugins);
    }
    flags.into_options().map(Command::Serve)
}

/// `check [FLAGS] [FILE]`, flags on either side of the file.
fn parse_check(mut args: VecDeque<OsString>) -> Result<Command, UsageError> {
    let mut flags = Flags::default();
    flags.read(&mut args)?;
    let file = args.pop_front();
    flags.read(&mut args)?;
    if flags.help {
        return Ok(Command::Help);
    }
    if !args.is_empty() || (file.is_some() && flags.conf.is_some()) {
        args.extend(file.filter(|_| flags.conf.is_some()));
        return Err(extra(args));
    }
    if let Some(file) = file {
        flags.conf = Some(file.into());
    }
    let mut options = flags.into_options()?;
    if options
        .conf
        .as_ref()
        .is_some_and(|path| path.as_os_str() == "-")
    {
        options.conf = Some("stdin".into());
    }
    Ok(Command::Check(options))
}

fn extra(args: VecDeque<OsString>) -> UsageError {
    let args: Vec<_> = args
        .iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let hint = match args
        .first()
        .map(|first| strsim::osa_distance(first, "check"))
    {
        Some(1..=2) => "; did you mean `check`?",
        _ => "",
    };
    UsageError::Value(format!(
        "extra command line arguments: [{}]{hint}",
        args.join(" ")
    ))
}

impl Flags {
    /// Takes flags from the front, up to the first argument that is none.
    fn read(&mut self, args: &mut VecDeque<OsString>) -> Result<(), UsageError> {
        while let Some(arg) = args.front() {
            let text = arg.to_string_lossy().into_owned();
            let Some(body) = text.strip_prefix('-').filter(|body| !body.is_empty()) else {
                return Ok(());
            };
            args.pop_front();
            let body = body.strip_prefix('-').unwrap_or(body);
            if body.is_empty() {
                return Ok(());
            }
            if body.starts_with(['-', '=']) {
                return Err(UsageError::Flag(format!("bad flag syntax: {text}")));
            }
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            self.set(name, value, args)?;
        }
        Ok(())
    }

    fn set(
        &mut self,
        name: &str,
        value: Option<String>,
        args: &mut VecDeque<OsString>,
    ) -> Result<(), UsageError> {
        // A path keeps octets that are no UTF-8 when it stands in an argument of its own.
        let mut path = |value: Option<String>| {
            value
                .map(OsString::from)
                .or_else(|| args.pop_front())
                .ok_or_else(|| UsageError::Flag(format!("flag needs an argument: -{name}")))
        };
        let switch = |value: Option<String>| match value.as_deref() {
            None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(UsageError::Flag(format!(
                "invalid boolean value \"{other}\" for -{name}: parse error"
            ))),
        };
        match name {
            "conf" => {
                self.conf =
                    Some(path(value)?.into()).filter(|path: &PathBuf| !path.as_os_str().is_empty())
            }
            "dns.port" | "p" => self.port = Some(path(value)?.to_string_lossy().into_owned()),
            "pidfile" => {
                self.pidfile =
                    Some(path(value)?.into()).filter(|path: &PathBuf| !path.as_os_str().is_empty());
            }
            "quiet" => self.quiet = switch(value)?,
            "version" => self.version = switch(value)?,
            "plugins" => self.plugins = switch(value)?,
            "h" | "help" => self.help = true,
            _ => {
                return Err(UsageError::Flag(format!(
                    "flag provided but not defined: -{name}"
                )));
            }
        }
        Ok(())
    }

    fn into_options(self) -> Result<Options, UsageError> {
        Ok(Options {
            conf: self.conf,
            port: self.port.as_deref().map_or(Ok(53), port)?,
            pidfile: self.pidfile,
            quiet: self.quiet,
        })
    }
}

/// A port by number, or by the name of a service.
fn port(text: &str) -> Result<u16, UsageError> {
    if let Ok(number) = text.parse::<i64>() {
        return u16::try_from(number)
            .map_err(|_| UsageError::Value(format!("address {text}: invalid port")));
    }
    let services = std::fs::read_to_string("/etc/services").unwrap_or_default();
    // The name that matters works on an image without the file, too.
    service_port(&services, text)
        .or((text == "domain").then_some(53))
        .ok_or_else(|| UsageError::Value(format!("lookup tcp/{text}: unknown port")))
}

/// Looks a TCP service up in text as `/etc/services` has it: `domain 53/tcp alias # comment`.
fn service_port(services: &str, name: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let first = words.next()?;
        let port = words.next()?.strip_suffix("/tcp")?;
        let named = first == name || words.any(|alias| alias == name);
        named.then(|| port.parse().ok())?
    })
}

/// What `-version` prints, and the end of the banner.
pub fn version_text() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let os = std::env::consts::OS;
    format!("Fingerpost-{VERSION}\n{os}/{architecture}, rustc {RUSTC}, {COMMIT}\n")
}

/// What `-plugins` prints: one name a line, sorted, and an empty line as CoreDNS has it.
pub fn plugins_text() -> String {
    let mut names: Vec<_> = PLUGINS.iter().map(|spec| spec.name).collect();
    names.sort_unstable();
    names
        .iter()
        .fold(String::new(), |text, name| text + name + "\n")
        + "\n"
}

/// How to use it, in short: what an unknown flag prints.
pub fn usage_text() -> String {
    "Usage of fingerpost:
  -conf string
    \tCorefile to load, `stdin` for standard input (default \"Corefile\")
  -dns.port string
    \tDefault port (default \"53\")
  -p string
    \tDefault port (default \"53\")
  -pidfile string
    \tPath to write pid file
  -plugins
    \tList installed plugins
  -quiet
    \tQuiet mode (no initialization output)
  -version
    \tShow version
"
    .to_owned()
}

/// What `--help` prints.
pub fn help_text() -> String {
    let mut text = format!(
        "Fingerpost {VERSION}: a cluster DNS server that reads CoreDNS' Corefile

  fingerpost [FLAGS]               serve
  fingerpost check [FLAGS] [FILE]  tell what is wrong with a Corefile, `-` for standard input; exit 0 or 1

{}
Plugins, in the order in which a query meets them:
",
        usage_text()
    );
    for spec in PLUGINS {
        let _ = writeln!(text, "  {:<13} {}", spec.name, spec.summary);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Result<Command, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn served(line: &str) -> Options {
        match command(line) {
            Ok(Command::Serve(options)) => options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        assert_eq!(served(""), Options::default());
        for line in [
            "-conf a -p 1053 -pidfile b -quiet",
            "--conf=a --dns.port=1053 --pidfile=b --quiet=true",
            "-p 53 -dns.port 1053 -quiet=1 -conf a -pidfile b --",
        ] {
            assert_eq!(
                served(line),
                Options {
                    conf: Some("a".into()),
                    port: 1053,
                    pidfile: Some("b".into()),
                    quiet: true,
                },
                "{line}"
            );
        }
        assert_eq!(served("-conf=").conf, None);
        assert!(!served("-quiet=false").quiet);
    }

    #[test]
    fn a_wrong_flag_is_told_from_a_wrong_argument() {
        for (line, message) in [
            ("-foo", "flag provided but not defined: -foo"),
            ("--foo=1", "flag provided but not defined: -foo"),
            ("-conf", "flag needs an argument: -conf"),
            ("---x", "bad flag syntax: ---x"),
            (
                "-quiet=maybe",
                "invalid boolean value \"maybe\" for -quiet: parse error",
            ),
        ] {
            assert_eq!(
                command(line),
                Err(UsageError::Flag(message.into())),
                "{line}"
            );
        }
        for (line, message) in [
            ("foo -p 1", "extra command line arguments: [foo -p 1]"),
            ("-quiet -", "extra command line arguments: [-]"),
            (
                "chekc a",
                "extra command line arguments: [chekc a]; did you mean `check`?",
            ),
            ("-version foo", "extra command line arguments: [foo]"),
            ("-p 99999", "address 99999: invalid port"),
            (
                "-p nonsuch.service",
                "lookup tcp/nonsuch.service: unknown port",
            ),
            ("check a b", "extra command line arguments: [b]"),
            ("check -conf a b", "extra command line arguments: [b]"),
        ] {
            assert_eq!(
                command(line),
                Err(UsageError::Value(message.into())),
                "{line}"
            );
        }
    }

    #[test]
    fn what_only_prints_wins_over_serving() {
        assert_eq!(command("-conf a -version -plugins"), Ok(Command::Version));
        assert_eq!(command("-plugins"), Ok(Command::Plugins));
        for line in ["-h", "--help", "-conf a -help", "check --help"] {
            assert_eq!(command(line), Ok(Command::Help), "{line}");
        }
    }

    #[test]
    fn check_takes_its_file_with_and_without_the_flag() {
        for line in [
            "check a -p 1053",
            "check -p 1053 -conf a",
            "check -p 1053 a",
        ] {
            let expected = Options {
                conf: Some("a".into()),
                port: 1053,
                ..Options::default()
            };
            assert_eq!(command(line), Ok(Command::Check(expected)), "{line}");
        }
        let Ok(Command::Check(options)) = command("check -") else {
            panic!("a lone dash is standard input");
        };
        assert_eq!(options.conf, Some("stdin".into()));
    }

    #[test]
    fn a_port_may_be_the_name_of_a_service() {
        assert_eq!(served("-p domain").port, 53);
        let services = "# x\ndomain 53/udp\ndomain 53/tcp\nmdns 5353/tcp zeroconf # y 1/tcp\n";
        assert_eq!(service_port(services, "domain"), Some(53));
        assert_eq!(service_port(services, "zeroconf"), Some(5353));
        assert_eq!(service_port(services, "y"), None);
    }

    #[test]
    fn the_version_names_us_and_the_compiler() {
        let text = version_text();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some(&*format!("Fingerpost-{VERSION}")));
        let second = lines.next().expect("a second line");
        assert!(second.contains(", rustc 1."), "{second}");
    }

    #[test]
    fn plugins_are_listed_by_name() {
        let text = plugins_text();
        let names: Vec<_> = text.lines().collect();
        assert_eq!(names.len(), PLUGINS.len() + 1);
        assert!(names[..PLUGINS.len()].is_sorted());
    }
}
