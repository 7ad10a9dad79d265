//! What a service manager hears of the roles.

use std::{os::unix::net::UnixDatagram, process::Stdio};

use crate::support::{DEADLINE, imgcls, signal_if_there};

#[test]
fn a_service_manager_hears_that_roles_are_ready_alive_and_stopping() {
    let dir = tempfile::tempdir().unwrap();
    for role in [&["serve", "--no-workers", "--listen", "127.0.0.1:0"][..], &["work"]] {
        let path = dir.path().join(role[0]);
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(DEADLINE)).unwrap();
        let hear = || {
            let mut buffer = [0; 64];
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        let mut command = imgcls();
        command.args(role).arg("--data-dir").arg(dir.path().join("data"));
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        assert_eq!(hear(), "READY=1", "{role:?}");
        assert_eq!([hear(), hear()], ["WATCHDOG=1", "WATCHDOG=1"], "{role:?}");
        signal_if_there(child.id(), "TERM");
        assert_eq!(std::iter::repeat_with(hear).find(|heard| heard != "WATCHDOG=1").unwrap(), "STOPPING=1", "{role:?}");
        assert!(child.wait().unwrap().success(), "{role:?}");
    }
}
