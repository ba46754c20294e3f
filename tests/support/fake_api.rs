//! An API server that follows a script: it can be silent, cut its replies and refuse as no healthy one does.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "each test binary uses a part of it"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// How many came before it.
    pub nth: usize,
    /// Path and query.
    pub uri: String,
    /// Header lines, names in lower case.
    pub headers: Vec<String>,
}

impl Asked {
    /// It asks for a list as a stream.
    pub fn is_streamed_list(&self) -> bool {
        self.uri.contains("sendInitialEvents=true")
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.map(str::trim)
    }
}

/// How a body goes on after its pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The connection stays open and nothing comes.
    Hold,
    /// The body ends as it should.
    End,
    /// The connection breaks.
    Cut,
}

/// A reply.
pub enum Answer {
    /// None at all.
    Silence,
    /// Status, content type, header lines, pieces of the body, and then.
    Reply(u16, &'static str, &'static str, Vec<Vec<u8>>, Then),
    /// Lines of JSON as they come, until nobody sends any more.
    Live(Receiver<String>),
}

impl Answer {
    /// Lines of JSON.
    pub fn events(events: &[String], then: Then) -> Self {
        let pieces = events
            .iter()
            .map(|event| format!("{event}\n").into_bytes())
            .collect();
        Self::Reply(200, "application/json", "", pieces, then)
    }

    /// A whole JSON body.
    pub fn json(code: u16, body: &str) -> Self {
        Self::Reply(
            code,
            "application/json",
            "",
            vec![body.as_bytes().to_vec()],
            Then::End,
        )
    }

    /// A Status.
    pub fn refusal(code: u16, message: &str) -> Self {
        Self::json(
            code,
            &format!(r#"{{"kind":"Status","code":{code},"message":"{message}"}}"#),
        )
    }
}

/// The server. Its threads end with the connections they serve.
pub struct FakeApi {
    address: SocketAddr,
    asked: Mutex<Receiver<Asked>>,
}

impl FakeApi {
    /// Answers each request as the script says.
    pub fn start(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, asked) = channel();
        let script: Arc<dyn Fn(&Asked) -> Answer + Send + Sync> = Arc::new(script);
        let count = Arc::new(Mutex::new(0));
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(connection) = connection else { return };
                let (script, sender, count) = (script.clone(), sender.clone(), count.clone());
                std::thread::spawn(move || drop(serve(connection, &*script, &sender, &count)));
            }
        });
        Self {
            address,
            asked: Mutex::new(asked),
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits for the next request.
    #[track_caller]
    pub fn next(&self) -> Asked {
        self.asked
            .lock()
            .unwrap()
            .recv_timeout(Duration::from_secs(60))
            .expect("another request")
    }

    /// The requests that came and were not waited for.
    pub fn rest(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().try_iter().collect()
    }
}

fn serve(
    connection: TcpStream,
    script: &dyn Fn(&Asked) -> Answer,
    sender: &Sender<Asked>,
    count: &Mutex<usize>,
) -> std::io::Result<()> {
    let mut writer = connection.try_clone()?;
    let mut reader = BufReader::new(connection);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_owned());
        }
        let asked = {
            let mut count = count.lock().unwrap();
            *count += 1;
            let uri = lines[0].split(' ').nth(1).unwrap_or_default().to_owned();
            let header = |line: &String| match line.split_once(':') {
                Some((name, value)) => format!("{}:{value}", name.to_ascii_lowercase()),
                None => line.clone(),
            };
            Asked {
                nth: *count - 1,
                uri,
                headers: lines[1..].iter().map(header).collect(),
            }
        };
        let answer = script(&asked);
        let _ = sender.send(asked);
        let (code, content_type, headers, pieces, then) = match answer {
            Answer::Silence => return wait_for_the_end(reader),
            Answer::Live(lines) => return write_live(&mut writer, &lines),
            Answer::Reply(code, content_type, headers, pieces, then) => {
                (code, content_type, headers, pieces, then)
            }
        };
        write!(
            writer,
            "HTTP/1.1 {code} X\r\nContent-Type: {content_type}\r\n{headers}Transfer-Encoding: chunked\r\n\r\n"
        )?;
        for piece in &pieces {
            write!(writer, "{:x}\r\n", piece.len())?;
            writer.write_all(piece)?;
            writer.write_all(b"\r\n")?;
        }
        writer.flush()?;
        match then {
            Then::End => writer.write_all(b"0\r\n\r\n")?,
            Then::Hold => return wait_for_the_end(reader),
            Then::Cut => return Ok(()),
        }
    }
}

/// Ends with the sender, or when the client does not listen any more.
fn write_live(writer: &mut TcpStream, lines: &Receiver<String>) -> std::io::Result<()> {
    write!(
        writer,
        "HTTP/1.1 200 X\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    for line in lines {
        write!(writer, "{:x}\r\n{line}\n\r\n", line.len() + 1)?;
    }
    Ok(())
}

/// Until the client closes.
fn wait_for_the_end(mut reader: BufReader<TcpStream>) -> std::io::Result<()> {
    std::io::copy(&mut reader, &mut std::io::sink()).map(drop)
}
