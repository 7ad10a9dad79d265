//! Notifications to a service manager that understands `sd_notify`: ready, alive, stopping. Without one nothing
//! happens.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Says that the process is ready, keeps saying that it is alive where the manager wants to know, and says when it
/// stops.
pub(super) fn ready(stop: CancellationToken) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&socket),
    };
    match address.and_then(|address| tell_ready(&address)) {
        Ok(manager) => drop(tokio::spawn(keep_alive(manager, watchdog(), stop))),
        Err(error) => warn!(%error, "cannot say to the service manager that this is ready"),
    }
}

/// Returns the connection to a manager that was told. What it does not read holds up nobody.
fn tell_ready(address: &SocketAddr) -> io::Result<UnixDatagram> {
    let manager = UnixDatagram::unbound()?;
    manager.connect_addr(address)?;
    manager.set_nonblocking(true)?;
    manager.send(b"READY=1")?;
    Ok(manager)
}

/// How often the manager wants to hear of this process: within half of the time after which it is taken for dead.
fn watchdog() -> Option<Duration> {
    let micros: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (micros > 0).then(|| Duration::from_micros(micros) / 2)
}

async fn keep_alive(manager: UnixDatagram, watchdog: Option<Duration>, stop: CancellationToken) {
    let alive = async {
        let Some(interval) = watchdog else { return std::future::pending().await };
        let mut ticks = tokio::time::interval(interval);
        loop {
            ticks.tick().await;
            // A manager that is restarting or busy hears the next one.
            manager.send(b"WATCHDOG=1").ok();
        }
    };
    tokio::select! {
        () = alive => {}
        () = stop.cancelled() => {
            // The drain may take longer than the watchdog's time: it gets the manager's time for stopping instead.
            manager.send(b"STOPPING=1").ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manager_that_does_not_listen_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _manager = UnixDatagram::bind(&path).unwrap();
        let connection = tell_ready(&SocketAddr::from_pathname(path).unwrap()).unwrap();
        let full = (0..100_000).find_map(|_| connection.send(b"WATCHDOG=1").err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep_alive(connection, Some(Duration::from_millis(1)), stop.clone()));
        tokio::time::sleep(Duration::from_millis(10)).await;
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_manager_hears_that_it_lives_and_stops() {
        let (ours, managers) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        managers.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let hear = || {
            let mut buffer = [0; 64];
            let n = managers.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..n].to_vec()).unwrap()
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep_alive(ours, Some(Duration::from_millis(1)), stop.clone()));
        tokio::time::sleep(Duration::from_millis(1)).await;
        stop.cancel();
        task.await.unwrap();
        let heard: Vec<String> = std::iter::from_fn(|| Some(hear())).take_while(|m| m != "STOPPING=1").collect();
        assert!(!heard.is_empty() && heard.iter().all(|m| m == "WATCHDOG=1"), "{heard:?}");
    }
}
