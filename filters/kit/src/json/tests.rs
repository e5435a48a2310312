//! The reader against serde_json: the same texts are JSON, and the same members lie in them.

use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::*;

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e300..1e300).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[a-z\"\\\\{}\\[\\],:\u{7f}é]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn read(text: &[u8]) -> Result<Vec<(String, Value)>, NotJson> {
    let mut found = Vec::new();
    members(text, |key, span| {
        let key = unescaped(key).ok_or(NotJson)?.into_owned();
        found.push((key, serde_json::from_slice(span.of(text)).map_err(|_| NotJson)?));
        Ok(())
    })?;
    Ok(found)
}

proptest! {
    #[test]
    fn the_members_of_an_object_are_those_serde_json_finds(
        map in prop::collection::btree_map(".{0,6}", any_value(), 0..6),
        pretty in any::<bool>(),
    ) {
        let value = Value::Object(map.into_iter().collect());
        let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
        let mut found = read(&text).unwrap();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        // Read back from the text: serde_json's quick reader of floats may differ from the writer in the last digit.
        let there: std::collections::BTreeMap<String, Value> = serde_json::from_slice(&text).unwrap();
        prop_assert_eq!(found, there.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_text_is_json_here_exactly_if_it_is_json_there(
        value in prop::collection::btree_map("[a-c]{0,2}", any_value(), 0..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(b"\"\\{}[],:0-.eE+tfn u\x01\t".to_vec())), 0..4),
    ) {
        let mut text = serde_json::to_vec(&Value::Object(value.into_iter().collect())).unwrap();
        for (at, byte) in changes {
            let at = at.index(text.len());
            text[at] = byte;
        }
        // Text frames are UTF-8; half a surrogate pair is left to whoever decodes the string.
        if let Ok(as_text) = std::str::from_utf8(&text)
            && !as_text.contains("\\u")
        {
            let there = text.trim_ascii_start().first() == Some(&b'{') && serde_json::from_slice::<IgnoredAny>(&text).is_ok();
            let here = members(&text, |_, _| Ok(())).is_ok();
            prop_assert_eq!(here, there, "{}", as_text);
        }
    }

    #[test]
    fn strings_are_written_as_serde_json_writes_them(text in any::<String>()) {
        let mut out = Vec::new();
        put_string(&mut out, &text);
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }
}

#[test]
fn nesting_is_bounded_as_in_serde_json() {
    for depth in [100, 126, 127, 128, 5000] {
        let text = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        let there = serde_json::from_str::<Value>(&text).is_ok();
        assert_eq!(members(text.as_bytes(), |_, _| Ok(())).is_ok(), there, "{depth}");
    }
}
