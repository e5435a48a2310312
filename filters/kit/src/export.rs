//! What a filter's module exports: its start function, and the custom section that declares its audience.

/// Bytes of [`audience_json`].
pub const fn audience_len(audience: Option<&[&str]>) -> usize {
    let Some(pointers) = audience else { return 0 };
    let mut len = 2;
    let mut at = 0;
    while at < pointers.len() {
        len += pointers[at].len() + 2 + if at > 0 { 1 } else { 0 };
        at += 1;
    }
    len
}

/// The JSON array of the declared pointers; nothing for "everything", which leaves the section out.
///
/// # Panics
/// At compile time, if a pointer holds what JSON would have to escape.
pub const fn audience_json<const LEN: usize>(audience: Option<&[&str]>) -> [u8; LEN] {
    let mut json = [0; LEN];
    let Some(pointers) = audience else { return json };
    json[0] = b'[';
    json[LEN - 1] = b']';
    let mut to = 1;
    let mut at = 0;
    while at < pointers.len() {
        if at > 0 {
            json[to] = b',';
            to += 1;
        }
        let pointer = pointers[at].as_bytes();
        json[to] = b'"';
        let mut byte = 0;
        while byte < pointer.len() {
            assert!(pointer[byte] >= 0x20 && pointer[byte] != b'"' && pointer[byte] != b'\\', "a plain JSON pointer");
            json[to + 1 + byte] = pointer[byte];
            byte += 1;
        }
        to += pointer.len() + 2;
        json[to - 1] = b'"';
        at += 1;
    }
    json
}

/// Makes a `cdylib` crate the filter of one [`Policy`](crate::Policy): the whole of `lib.rs` beside the policy.
///
/// The section `bawaba.audience` of the module holds the policy's declared facts as a JSON array; a policy whose
/// `AUDIENCE` is `None` has no such section.
///
/// `cases = "cases.json"` (a path from the file that says so) puts the module's own cases into its section
/// `bawaba.cases`: a host takes the module only if they hold, and [`trial::hold`](crate::trial::hold) tries them without.
#[macro_export]
macro_rules! policy {
    ($policy:ty, cases = $cases:literal) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            const CASES: &[u8] = include_bytes!($cases);
            #[used]
            #[unsafe(link_section = "bawaba.cases")]
            static SECTION: [u8; CASES.len()] = *include_bytes!($cases);
        };

        $crate::policy!($policy);
    };
    ($policy:ty) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            const AUDIENCE: ::core::option::Option<&'static [&'static str]> = <$policy as $crate::Policy>::AUDIENCE;
            const LEN: usize = $crate::export::audience_len(AUDIENCE);
            #[used]
            #[unsafe(link_section = "bawaba.audience")]
            static SECTION: [u8; LEN] = $crate::export::audience_json(AUDIENCE);
        };

        const _: () = {
            #[cfg(target_os = "wasi")]
            unsafe extern "C" {
                fn __wasm_call_ctors();
            }

            /// Called once by the host, before anything else.
            #[unsafe(no_mangle)]
            extern "C" fn _initialize() {
                // SAFETY: the linker makes this function for every module, and the host calls it through here, once.
                #[cfg(target_os = "wasi")]
                unsafe {
                    __wasm_call_ctors();
                }
                $crate::shell::install::<$policy>();
            }
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audience_is_written_as_json() {
        const TWO: Option<&[&str]> = Some(&["/islamic/mode", "/tier"]);
        assert_eq!(&audience_json::<{ audience_len(TWO) }>(TWO), br#"["/islamic/mode","/tier"]"#);
        assert_eq!(&audience_json::<{ audience_len(Some(&[])) }>(Some(&[])), b"[]");
        assert_eq!(audience_len(None), 0);
    }
}
