//! How processes without MPI find each other: the first one listens at a place that the launcher tells all of them, and
//! the others ask it there for a few bytes, with which a library can go on.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Error, Launch};

/// How long processes wait for each other: they may start minutes apart.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);
/// How often one that waits looks again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(5);
/// First bytes of a question and of its answer: whoever else comes to the port is sent away.
const QUESTION: [u8; 8] = *b"dssm-who";
const ANSWER: [u8; 8] = *b"dssm-you";
const QUESTION_LENGTH: usize = 24;

/// Variables of torchrun; with other launchers the user sets them.
const ADDRESS: &str = "MASTER_ADDR";
const PORT: &str = "MASTER_PORT";

/// Where the first process listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    host: String,
    port: u16,
}

impl Place {
    /// What the environment says.
    ///
    /// # Errors
    /// [`Error::NoPlace`].
    #[cfg(feature = "nccl")]
    pub(super) fn from_environment() -> Result<Self, Error> {
        Self::find(|name| std::env::var(name).ok())
    }

    fn find(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let (host, port) = (variable(ADDRESS), variable(PORT));
        match (host, port.as_ref().map(|port| port.parse::<u16>())) {
            (Some(host), Some(Ok(port))) if !host.is_empty() && port > 0 => Ok(Self {
                host,
                // torchrun listens on the port itself.
                port: port.checked_add(1).unwrap_or(port - 1),
            }),
            (host, _) => Err(Error::NoPlace {
                address: host.unwrap_or_default(),
                port: port.unwrap_or_default(),
            }),
        }
    }

    fn error(&self, source: io::Error) -> Error {
        Error::Rendezvous {
            host: self.host.clone(),
            port: self.port,
            source,
        }
    }
}

/// The bytes that `make` gives in the first process of `launch`, in all of them.
///
/// # Errors
/// Those of `make`; [`Error::Rendezvous`] when they do not meet within `patience`.
pub(super) fn share_first<const N: usize>(
    launch: &Launch,
    place: &Place,
    patience: Duration,
    make: impl FnOnce() -> Result<[u8; N], Error>,
) -> Result<[u8; N], Error> {
    let deadline = Instant::now() + patience;
    if launch.rank > 0 {
        return ask(launch, place, deadline).map_err(|source| place.error(source));
    }
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, place.port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, place.port)))
        .map_err(|source| place.error(source))?;
    let bytes = make()?;
    answer_all(&listener, launch, &bytes, deadline).map_err(|source| place.error(source))?;
    Ok(bytes)
}

/// Answers until each of the other processes has its bytes.
fn answer_all(listener: &TcpListener, launch: &Launch, bytes: &[u8], deadline: Instant) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut missing: BTreeSet<usize> = (1..launch.ranks).collect();
    while !missing.is_empty() {
        match listener.accept() {
            Ok((stream, _)) => {
                // Whoever asks something else, or goes away, is no process of this run.
                if let Ok(rank) = answer(stream, launch, bytes) {
                    missing.remove(&rank);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if Instant::now() >= deadline {
                    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
                    let text = format!("process {} did not come", missing.join(", "));
                    return Err(io::Error::new(ErrorKind::TimedOut, text));
                }
                sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Answers one process; tells which one it was.
fn answer(mut stream: TcpStream, launch: &Launch, bytes: &[u8]) -> io::Result<usize> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut question = [0; QUESTION_LENGTH];
    stream.read_exact(&mut question)?;
    let rank = read_question(&question, launch.ranks)
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "no process of this run"))?;
    stream.write_all(&[&ANSWER[..], bytes].concat())?;
    Ok(rank)
}

/// Asks the first process until it answers: it may not listen yet.
fn ask<const N: usize>(launch: &Launch, place: &Place, deadline: Instant) -> io::Result<[u8; N]> {
    loop {
        match ask_once(launch, place) {
            Ok(bytes) => return Ok(bytes),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => sleep(PAUSE),
        }
    }
}

fn ask_once<const N: usize>(launch: &Launch, place: &Place) -> io::Result<[u8; N]> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in (place.host.as_str(), place.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, SILENCE) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(SILENCE))?;
                stream.set_write_timeout(Some(SILENCE))?;
                stream.write_all(&question(launch))?;
                let mut mark = [0; ANSWER.len()];
                stream.read_exact(&mut mark)?;
                if mark != ANSWER {
                    return Err(io::Error::new(ErrorKind::InvalidData, "another program answers"));
                }
                let mut bytes = [0; N];
                stream.read_exact(&mut bytes)?;
                return Ok(bytes);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Who asks, and of how many.
fn question(launch: &Launch) -> [u8; QUESTION_LENGTH] {
    let mut bytes = [0; QUESTION_LENGTH];
    bytes[..8].copy_from_slice(&QUESTION);
    bytes[8..16].copy_from_slice(&(launch.rank as u64).to_le_bytes());
    bytes[16..].copy_from_slice(&(launch.ranks as u64).to_le_bytes());
    bytes
}

/// The rank that asks; `None` when it belongs to another run.
fn read_question(bytes: &[u8; QUESTION_LENGTH], ranks: usize) -> Option<usize> {
    let (mark, numbers) = bytes.split_first_chunk::<8>()?;
    let (rank, count) = numbers.split_first_chunk::<8>()?;
    let (rank, count) = (
        u64::from_le_bytes(*rank),
        u64::from_le_bytes(count.try_into().ok()?),
    );
    let fits = *mark == QUESTION && count == ranks as u64 && 0 < rank && rank < count;
    fits.then_some(rank as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn launch(rank: usize, ranks: usize) -> Launch {
        Launch {
            launcher: "torchrun",
            ranks_name: "WORLD_SIZE",
            rank,
            ranks,
        }
    }

    /// A port that is free now.
    fn here() -> Place {
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        Place {
            host: "localhost".to_owned(),
            port: free.local_addr().unwrap().port(),
        }
    }

    fn meet(launch: Launch, place: &Place, patience: Duration) -> Result<[u8; 128], Error> {
        share_first(&launch, place, patience, || {
            assert_eq!(launch.rank, 0, "the first process alone makes the bytes");
            Ok(std::array::from_fn(|i| i as u8))
        })
    }

    #[test]
    fn all_get_the_bytes_of_the_first_whoever_comes_first_and_whoever_else_comes() {
        let place = here();
        let all = thread::scope(|scope| {
            let place = &place;
            let join = |rank| scope.spawn(move || meet(launch(rank, 4), place, PATIENCE).unwrap());
            let mut running = vec![join(3), join(1)];
            sleep(2 * PAUSE);
            running.push(join(0));
            // A stranger, a process of a larger run, and one that says nothing and goes away.
            for question in [
                &b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"[..],
                &question(&launch(5, 9)),
                b"",
            ] {
                let stream = (0..100).find_map(|_| {
                    sleep(PAUSE);
                    TcpStream::connect(("localhost", place.port)).ok()
                });
                stream.unwrap().write_all(question).unwrap();
            }
            running.push(join(2));
            running
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect::<Vec<_>>()
        });
        for bytes in all {
            assert!(bytes.iter().enumerate().all(|(i, &byte)| byte == i as u8));
        }
    }

    #[test]
    fn whoever_waits_in_vain_says_for_whom_and_where() {
        let place = here();
        let error = meet(launch(0, 3), &place, PAUSE).unwrap_err().to_string();
        assert!(error.contains("process 1, 2 did not come"), "{error}");
        let error = meet(launch(1, 3), &place, PAUSE).unwrap_err().to_string();
        assert!(error.contains(&format!("localhost:{}", place.port)), "{error}");
        let taken = TcpListener::bind((Ipv6Addr::UNSPECIFIED, place.port)).unwrap();
        let error = meet(launch(0, 3), &place, PAUSE).unwrap_err().to_string();
        assert!(error.contains("MASTER_PORT"), "{error}");
        drop(taken);
    }

    #[test]
    fn the_place_is_beside_torchruns_own_port() {
        let with = |host: &'static str, port: &'static str| {
            Place::find(|name| Some(if name == ADDRESS { host } else { port }.to_owned()))
        };
        assert_eq!(with("node7", "29500").unwrap().port, 29501);
        assert_eq!(with("node7", "65535").unwrap().port, 65534);
        for (host, port) in [
            ("", "29500"),
            ("node7", "http"),
            ("node7", "0"),
            ("node7", "70000"),
        ] {
            let error = with(host, port).unwrap_err().to_string();
            assert!(
                error.contains("MASTER_ADDR") && error.contains("MASTER_PORT"),
                "{error}"
            );
        }
        assert!(Place::find(|_| None).is_err());
    }
}
