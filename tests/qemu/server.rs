//! The smallest web server that can serve an image.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;

/// Serves this file, whatever is asked for, on a loopback port; the port.
pub(crate) fn serve(file: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let head = BufReader::new(&stream).lines().map_while(Result::ok);
            head.take_while(|line| !line.is_empty()).for_each(drop);
            let mut file = File::open(&file).expect("the image");
            let len = file.metadata().expect("its length").len();
            // Whoever hangs up early has the reason; the test sees the other end.
            let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {len}\r\n\r\n")
                .and_then(|()| io::copy(&mut file, &mut stream));
        }
    });
    port
}
