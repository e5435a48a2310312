//! Any host function, called with any arguments over any memory: statuses, never a panic and never a trap.

#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/laws/caller.rs"]
mod caller;

thread_local! {
    static CALLER: RefCell<caller::Caller> = RefCell::new(caller::Caller::new());
}

fuzz_target!(|message: &[u8]| CALLER.with_borrow_mut(|caller| caller.feed(message)));
