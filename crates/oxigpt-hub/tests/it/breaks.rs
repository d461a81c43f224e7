//! Transfers that break, stall, lie, are waited for or stopped: in the end the file is right, or there is none.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fs_err as fs;
use oxigpt_hub::{Error, Hub, Progress, Stage};

use crate::server::{FakeHub, Reply, Request, Server};
use crate::{blobs, bytes, gpt2, hub, names, settings, snapshot};

const LEN: usize = 500_000;

/// A hub with one file, large or small, whose GETs a test may change: the request, its number from 0, the reply.
fn spoiled(
    is_large: bool,
    spoil: impl Fn(&Request, usize, Reply) -> Reply + Send + Sync + 'static,
) -> (Server, String) {
    let fake = FakeHub::default();
    let fake = if is_large { fake.large("w.bin", bytes(LEN)) } else { fake.small("w.bin", bytes(LEN)) };
    let tag = fake.tag("w.bin");
    let count = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let reply = fake.reply(request);
        match request.is("GET", "w.bin") {
            true => spoil(request, count.fetch_add(1, Ordering::SeqCst), reply),
            false => reply,
        }
    });
    (server, tag)
}

/// The `Range` headers of the GETs of the file.
fn ranges(server: &Server) -> Vec<Option<String>> {
    let gets = server.take_log().into_iter().filter(|request| request.is("GET", "w.bin"));
    gets.map(|request| request.header("range").map(String::from)).collect()
}

/// Each break costs what was under way, not what had arrived.
#[test]
fn a_broken_transfer_goes_on_where_it_stopped() {
    for is_large in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        // More breaks than retries: getting further starts the count anew.
        let (server, tag) = spoiled(is_large, |_, n, reply| if n < 5 { reply.cut(70_000) } else { reply });
        let folder = snapshot(&hub(&server, dir.path())).unwrap();
        assert_eq!(fs::read(folder.join("w.bin")).unwrap(), bytes(LEN));
        assert_eq!(names(&blobs(dir.path())), [&*tag]);
        let log = server.take_log();
        let gets: Vec<_> = log.iter().filter(|request| request.is("GET", "w.bin")).collect();
        let starts: Vec<_> = gets.iter().map(|request| request.header("range")).collect();
        let expected = [70_000, 140_000, 210_000, 280_000, 350_000].map(|n| format!("bytes={n}-"));
        assert_eq!(starts[0], None);
        assert!(starts[1..].iter().zip(&expected).all(|(a, b)| *a == Some(b)), "{starts:?}");
        // Where the checksum cannot tell, the tag has to.
        let tags = gets[1..].iter().map(|request| request.header("if-range").map(String::from));
        let expected = (!is_large).then(|| format!("\"{tag}\""));
        assert!(tags.into_iter().all(|tag| tag == expected));
    }
}

#[test]
fn the_next_process_goes_on_too() {
    for is_large in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (server, tag) = spoiled(is_large, |_, n, reply| if n == 0 { reply.cut(200_000) } else { reply });
        let mut settings = settings(&server, dir.path());
        settings.retries = 0;
        let error = snapshot(&Hub::new(settings.clone()).unwrap()).unwrap_err();
        assert!(error.to_string().ends_with("the connection broke after 200000 of 500000 bytes"), "{error}");
        assert!(error.hint().unwrap().contains("goes on where it stopped"));
        assert_eq!(names(&blobs(dir.path())), [format!("{tag}.incomplete")]);
        assert!(names(&dir.path().join("hub/models--gpt2")).iter().all(|name| name == "blobs"));
        server.take_log();

        let mut resumed = None;
        let mut note = |p: &Progress<'_>| {
            resumed.get_or_insert((p.resumed_from, p.done));
            ControlFlow::Continue(())
        };
        let hub = Hub::new(settings).unwrap();
        let folder = hub.snapshot(&gpt2(), "main", &|_| true, &mut note).unwrap();
        assert_eq!(resumed, Some((200_000, 200_000)));
        assert_eq!(ranges(&server), [Some("bytes=200000-".into())]);
        assert_eq!(fs::read(folder.join("w.bin")).unwrap(), bytes(LEN));
    }
}

#[test]
fn a_server_that_knows_no_ranges_sends_all_again() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = spoiled(true, |_, n, _| {
        let whole = Reply::new(200, bytes(LEN));
        if n == 0 { whole.cut(200_000) } else { whole }
    });
    let folder = snapshot(&hub(&server, dir.path())).unwrap();
    assert_eq!(fs::read(folder.join("w.bin")).unwrap(), bytes(LEN));
    assert_eq!(ranges(&server), [None, Some("bytes=200000-".into())]);
}

/// It never gets further than the first time, so it is given up.
#[test]
fn a_transfer_that_gets_nowhere_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = spoiled(true, |_, _, _| Reply::new(200, bytes(LEN)).cut(100_000));
    let error = snapshot(&hub(&server, dir.path())).unwrap_err();
    assert!(error.to_string().ends_with("the connection broke after 100000 of 500000 bytes"), "{error}");
    assert_eq!(ranges(&server).len(), 1 + 3);
}

#[test]
fn another_part_than_asked_for_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = spoiled(true, |_, n, reply| match n {
        0 => reply.cut(200_000),
        1 => Reply::new(206, &bytes(LEN)[100..]).with("Content-Range", "bytes 100-499999/500000"),
        _ => reply,
    });
    let folder = snapshot(&hub(&server, dir.path())).unwrap();
    assert_eq!(fs::read(folder.join("w.bin")).unwrap(), bytes(LEN));
    assert_eq!(ranges(&server), [None, Some("bytes=200000-".into()), None]);
}

#[test]
fn a_remainder_that_cannot_be_right_is_thrown_away() {
    let dir = tempfile::tempdir().unwrap();
    let (server, tag) = spoiled(true, |_, _, reply| reply);
    fs::create_dir_all(blobs(dir.path())).unwrap();
    fs::write(blobs(dir.path()).join(format!("{tag}.incomplete")), bytes(LEN + 1)).unwrap();
    snapshot(&hub(&server, dir.path())).unwrap();
    assert_eq!(ranges(&server), [None]);
}

/// All bytes had arrived, only the name was not given yet.
#[test]
fn a_whole_remainder_is_not_downloaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let (server, tag) = spoiled(true, |_, _, reply| reply);
    fs::create_dir_all(blobs(dir.path())).unwrap();
    fs::write(blobs(dir.path()).join(format!("{tag}.incomplete")), bytes(LEN)).unwrap();
    let folder = snapshot(&hub(&server, dir.path())).unwrap();
    assert!(ranges(&server).is_empty());
    assert_eq!(fs::read(folder.join("w.bin")).unwrap(), bytes(LEN));
}

#[test]
fn a_blob_of_another_length_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (server, tag) = spoiled(true, |_, _, reply| reply);
    fs::create_dir_all(blobs(dir.path())).unwrap();
    fs::write(blobs(dir.path()).join(tag), "cut off by somebody").unwrap();
    let folder = snapshot(&hub(&server, dir.path())).unwrap();
    assert_eq!(fs::read(folder.join("w.bin")).unwrap(), bytes(LEN));
}

#[test]
fn a_server_that_stops_sending_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) =
        spoiled(
            true,
            |_, n, reply| {
                if n == 0 { reply.stall(200_000, Duration::from_secs(20)) } else { reply }
            },
        );
    let mut settings = settings(&server, dir.path());
    settings.stall = Duration::from_millis(200);
    let mut causes = Vec::new();
    let mut note = |p: &Progress<'_>| {
        if let Stage::Retry { cause, attempt: 1, .. } = p.stage {
            causes.push(cause.to_string());
        }
        ControlFlow::Continue(())
    };
    let start = Instant::now();
    Hub::new(settings).unwrap().snapshot(&gpt2(), "main", &|_| true, &mut note).unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(causes[0].ends_with("the server stopped sending after 200000 of 500000 bytes"), "{causes:?}");
    assert_eq!(ranges(&server).len(), 2);
}

#[test]
fn a_wrong_checksum_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (server, tag) = spoiled(true, |_, _, _| {
        let mut wrong = bytes(LEN);
        wrong[LEN / 2] ^= 1;
        Reply::new(200, wrong)
    });
    let error = snapshot(&hub(&server, dir.path())).unwrap_err();
    let Error::WrongChecksum { expected, found, .. } = &error else { panic!("{error}") };
    assert_eq!((expected.as_str(), found.len()), (tag.as_str(), 64));
    assert!(error.to_string().ends_with("what was downloaded is deleted"), "{error}");
    assert!(error.hint().unwrap().starts_with("run the same command again"));
    assert_eq!(names(&blobs(dir.path())), [""; 0]);
    assert_eq!(ranges(&server).len(), 1);
}

#[test]
fn a_wrong_length_leaves_nothing() {
    for is_large in [true, false] {
        for len in [LEN - 1, LEN + 1] {
            let dir = tempfile::tempdir().unwrap();
            let (server, _) = spoiled(is_large, move |_, _, _| Reply::new(200, bytes(len)));
            let error = snapshot(&hub(&server, dir.path())).unwrap_err();
            let expected = format!("the file should be 500000 bytes long, but the server sends {len}");
            assert!(error.to_string().ends_with(&expected), "{error}");
            assert_eq!(names(&blobs(dir.path())), [""; 0]);
        }
    }
}

/// A server that does not say how much it sends is cut short.
#[test]
fn too_many_bytes_are_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = spoiled(true, |_, _, _| {
        let mut body = Vec::new();
        for _ in 0..20 {
            body.extend_from_slice(b"c350\r\n");
            body.extend(bytes(0xc350));
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"0\r\n\r\n");
        Reply::new(200, body).with("Transfer-Encoding", "chunked")
    });
    let error = snapshot(&hub(&server, dir.path())).unwrap_err();
    assert!(matches!(error, Error::WrongLength { expected: 500_000, .. }), "{error}");
    assert_eq!(names(&blobs(dir.path())), [""; 0]);
}

#[test]
fn who_stops_goes_on_later() {
    let dir = tempfile::tempdir().unwrap();
    let (server, tag) = spoiled(true, |_, _, reply| reply);
    let hub = hub(&server, dir.path());
    let mut stop = |p: &Progress<'_>| {
        if p.done < 100_000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let error = hub.snapshot(&gpt2(), "main", &|_| true, &mut stop).unwrap_err();
    assert_eq!(error.to_string(), "the download of w.bin was interrupted");
    assert_eq!(error.hint().unwrap(), "the same command goes on where it stopped");
    assert_eq!(names(&blobs(dir.path())), [format!("{tag}.incomplete")]);
    server.take_log();
    let left = fs::metadata(blobs(dir.path()).join(format!("{tag}.incomplete"))).unwrap().len();
    assert!((100_000..LEN as u64).contains(&left));
    snapshot(&hub).unwrap();
    assert_eq!(ranges(&server), [Some(format!("bytes={left}-"))]);
}

/// Even a long pause between two attempts ends at once.
#[test]
fn a_pause_can_be_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_| Reply::new(429, "").with("Retry-After", 100));
    let mut stop = |p: &Progress<'_>| match p.stage {
        Stage::Retry { wait, .. } if wait == Duration::from_secs(100) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let error = hub(&server, dir.path()).snapshot(&gpt2(), "main", &|_| true, &mut stop).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
}

#[test]
fn many_at_once_download_a_file_once() {
    let dir = tempfile::tempdir().unwrap();
    let (server, tag) = spoiled(true, |_, _, reply| reply.stall(LEN, Duration::from_millis(100)));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let folder = snapshot(&hub(&server, dir.path())).unwrap();
                assert_eq!(fs::read(folder.join("w.bin")).unwrap(), bytes(LEN));
            });
        }
    });
    assert_eq!(ranges(&server), [None]);
    assert_eq!(names(&blobs(dir.path())), [tag]);
}

/// The lock is an ordinary one of the operating system, on the file on which the Python tools take it.
#[test]
fn who_has_the_lock_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (server, tag) = spoiled(true, |_, _, reply| reply);
    let locks = dir.path().join("hub/.locks/models--gpt2");
    fs::create_dir_all(&locks).unwrap();
    let lock = fs::File::create(locks.join(format!("{tag}.lock"))).unwrap();
    lock.file().lock().unwrap();
    let mut held = Some(lock);
    let mut waits = 0;
    let mut note = |p: &Progress<'_>| {
        if p.stage == Stage::Locked {
            waits += 1;
            if waits == 2 {
                held.take();
            }
        }
        ControlFlow::Continue(())
    };
    hub(&server, dir.path()).snapshot(&gpt2(), "main", &|_| true, &mut note).unwrap();
    assert!(waits >= 2);
}

/// `/dev/full` is a disk without space.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (server, tag) = spoiled(false, |_, _, reply| reply);
    fs::create_dir_all(blobs(dir.path())).unwrap();
    let partial = blobs(dir.path()).join(format!("{tag}.incomplete"));
    fs::os::unix::fs::symlink("/dev/full", &partial).unwrap();
    let error = snapshot(&hub(&server, dir.path())).unwrap_err();
    assert!(error.to_string().contains(partial.to_str().unwrap()), "{error}");
    assert!(error.hint().unwrap().starts_with("free some disk space"), "{error}");
    assert_eq!(ranges(&server).len(), 1);
}
