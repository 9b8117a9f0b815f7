//! Files of many inputs, one a line. A thread reads ahead, but never the whole file, so that a file may be larger than
//! memory. `requests` and `texts` parse the lines.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvError, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, bail};

/// The most bytes of a line; a file of another kind may have no line breaks at all.
const LONGEST: usize = 64 << 20;

/// The most lines that are read ahead, whatever the caller asks for.
const FURTHEST: usize = 1 << 16;

/// A line of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// Its place in the file, counted from 0, empty lines included.
    pub index: usize,
    /// Its text without the line break, or an error message.
    pub text: Result<String, String>,
}

/// The lines of a file. Empty lines are skipped.
pub struct Lines<R = Box<dyn BufRead + Send>> {
    reader: R,
    path: PathBuf,
    index: usize,
}

impl Lines {
    /// Opens a file, or standard input where the path is `-`.
    pub fn open(path: &Path) -> Result<Self> {
        let reader: Box<dyn BufRead + Send> = if path.as_os_str() == "-" {
            Box::new(BufReader::new(io::stdin()))
        } else {
            Box::new(BufReader::new(File::open(path).with_context(|| format!("cannot open {path:?}"))?))
        };
        Ok(Self { reader, path: path.to_owned(), index: 0 })
    }

    /// The number of lines of a file that are not empty; `None` for standard input and pipes.
    pub fn count(path: &Path) -> Option<u64> {
        // Only a plain file can be read twice.
        let is_file = path.as_os_str() != "-" && path.metadata().is_ok_and(|metadata| metadata.is_file());
        let lines = is_file.then(|| Self::open(path).ok()).flatten()?;
        Some(lines.take_while(Result::is_ok).count() as u64)
    }
}

impl<R: BufRead> Lines<R> {
    /// The next line's bytes with its break, cut to the longest length, and the full number of its bytes.
    fn read(&mut self) -> io::Result<(Vec<u8>, usize)> {
        let mut bytes = Vec::new();
        let mut len = self.reader.by_ref().take(LONGEST as u64).read_until(b'\n', &mut bytes)?;
        if len == LONGEST && bytes.last() != Some(&b'\n') {
            len += self.reader.skip_until(b'\n')?;
        }
        Ok((bytes, len))
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (bytes, len) = match self.read() {
                Ok((_, 0)) => return None,
                Ok(read) => read,
                Err(error) => return Some(Err(anyhow!(error).context(format!("cannot read {:?}", self.path)))),
            };
            let index = self.index;
            self.index += 1;
            let text = if len > bytes.len() {
                Err(format!("the line has {len} bytes, expected at most {LONGEST}; split it, or give one input a line"))
            } else {
                String::from_utf8(bytes).map_err(|error| format!("the line is not UTF-8 text: {error}"))
            };
            // Some editors begin a file with a byte order mark.
            let text = text.map(|text| match index {
                0 => trimmed(text.strip_prefix('\u{feff}').unwrap_or(&text)),
                _ => trimmed(&text),
            });
            if text.as_ref().is_ok_and(|text| text.trim().is_empty()) {
                continue;
            }
            return Some(Ok(Line { index, text }));
        }
    }
}

/// The line without its break.
fn trimmed(line: &str) -> String {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line).to_owned()
}

/// The parsed lines of a file, from a thread that reads a bounded number of lines ahead.
pub struct Ahead<T> {
    items: Receiver<Result<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Ahead<T> {
    /// Starts a thread that calls `make` for each line, at most `count` lines ahead of the receiver.
    ///
    /// The thread ends after the last line, or at the next line after this value is dropped. Dropping does not wait for
    /// the thread, which may be waiting for input.
    pub fn new(lines: Lines, count: usize, mut make: impl FnMut(Line) -> T + Send + 'static) -> Result<Self> {
        // Two of the items are not in the channel: the receiver works on one, and the thread waits to send one.
        let (sender, items) = sync_channel(count.min(FURTHEST).saturating_sub(2));
        let work = move || {
            for line in lines {
                let failed = line.is_err();
                if sender.send(line.map(&mut make)).is_err() || failed {
                    break;
                }
            }
        };
        let thread = thread::Builder::new().name("fornax-lines".into());
        Ok(Self { items, thread: Some(thread.spawn(work).context("cannot start a thread that reads the input")?) })
    }

    /// The next item; `None` when there are no more.
    pub fn next_one(&mut self) -> Result<Option<T>> {
        match self.items.recv() {
            Ok(item) => item.map(Some),
            Err(RecvError) => self.ended(),
        }
    }

    /// Waits for the next item, and takes up to `limit` items in all if more are ready. Empty at the end of the file.
    pub fn next_some(&mut self, limit: usize) -> Result<Vec<T>> {
        let mut items = Vec::from_iter(self.next_one()?);
        while !items.is_empty() && items.len() < limit {
            match self.items.try_recv() {
                Ok(item) => items.push(item?),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        Ok(items)
    }

    fn ended(&mut self) -> Result<Option<T>> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => bail!("internal error: the thread that reads the input panicked; please report it"),
            Some(Ok(())) | None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Lines {
        Lines { reader: Box::new(io::Cursor::new(bytes.to_vec())), path: "a file".into(), index: 0 }
    }

    #[test]
    fn lines_have_their_place_and_no_break() {
        let found: Vec<_> = lines(b"\xef\xbb\xbfa\r\n\n  \nb \xff\nc").map(Result::unwrap).collect();
        assert_eq!(found.iter().map(|line| line.index).collect::<Vec<_>>(), [0, 3, 4]);
        assert_eq!((found[0].text.as_deref(), found[2].text.as_deref()), (Ok("a"), Ok("c")));
        assert!(found[1].text.as_ref().is_err_and(|error| error.contains("UTF-8")), "{found:?}");
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut bytes = vec![b'x'; LONGEST + 5];
        bytes.extend(b"\nb\n");
        let found: Vec<_> = lines(&bytes).map(Result::unwrap).collect();
        assert!(found[0].text.as_ref().is_err_and(|error| error.contains("67108870 bytes")), "{:?}", found[0]);
        assert_eq!(found[1], Line { index: 1, text: Ok("b".into()) });
    }

    #[test]
    fn lines_come_in_order_and_the_thread_stays_within_its_limit() {
        let made = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = std::sync::Arc::clone(&made);
        let mut ahead = Ahead::new(lines(&b"x\n".repeat(100)), 8, move |line| {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            line.index
        })
        .expect("a thread");
        let mut taken = Vec::from_iter(ahead.next_one().expect("no error"));
        for _ in 0..10 {
            thread::yield_now();
            assert!(made.load(std::sync::atomic::Ordering::SeqCst) <= 8);
        }
        loop {
            let items = ahead.next_some(3).expect("no error");
            if items.is_empty() {
                break;
            }
            assert!(items.len() <= 3);
            taken.extend(items);
        }
        assert_eq!(taken, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_panic_of_the_thread_is_no_end_of_the_file() {
        let mut ahead = Ahead::new(lines(b"x\ny\n"), 4, |line| {
            assert!(line.index == 0, "a planted mistake");
            line.index
        })
        .expect("a thread");
        assert_eq!(ahead.next_one().expect("no error"), Some(0));
        assert!(ahead.next_one().is_err());
    }
}
