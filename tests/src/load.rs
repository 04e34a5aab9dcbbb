//! A steady stream of HTTP requests, each on a connection of its own, that
//! counts what fails.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long one request may take. Longer counts as failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Requests being made by threads of their own.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(u64, Vec<String>)>>,
}

impl Load {
    /// Starts `clients` threads that fetch `/` from `target` over and over.
    pub fn start(target: SocketAddr, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..clients)
            .map(|_| {
                let stop = stop.clone();
                std::thread::spawn(move || {
                    let (mut good, mut failures) = (0, Vec::new());
                    while !stop.load(Ordering::Relaxed) {
                        match fetch(target, "/") {
                            Ok(_) => good += 1,
                            Err(error) => failures.push(error),
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    (good, failures)
                })
            })
            .collect();
        Self { stop, threads }
    }

    /// Stops, and gives the number of good requests and what the others said.
    pub fn stop(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = (0, Vec::new());
        for thread in self.threads {
            let (good, failures) = thread.join().expect("the load's thread ends");
            total.0 += good;
            total.1.extend(failures);
        }
        total
    }
}

/// Fetches a page; anything but a 200 with a whole body is an error.
pub fn fetch(target: SocketAddr, path: &str) -> Result<String, String> {
    let say = |what: &str, error: std::io::Error| format!("{what}: {error}");
    let mut stream =
        TcpStream::connect_timeout(&target, PATIENCE).map_err(|error| say("connect", error))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| say("socket", error))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| say("send", error))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| say("receive", error))?;
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| format!("broken off: {answer:?}"))?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") && !body.is_empty() {
        Ok(body.to_owned())
    } else {
        Err(format!("answered {status:?}"))
    }
}
