//! The protocol of the agent's socket, in both directions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::spool::{read_answer, read_request, write_answer, write_request};

fuzz_target!(|data: &[u8]| {
    if let Ok(Some(request)) = read_request(&mut &data[..]) {
        let mut written = Vec::new();
        write_request(&mut written, &request).expect("to memory");
        let again = read_request(&mut written.as_slice()).expect("our own").expect("whole");
        assert_eq!(format!("{again:?}"), format!("{request:?}"));
    }
    if let Ok(Some(answer)) = read_answer(&mut &data[..]) {
        write_answer(&mut Vec::new(), &answer).expect("to memory");
    }
});
