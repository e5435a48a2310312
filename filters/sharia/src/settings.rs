//! Settings: those of the screening rules, and what this filter does where they do not reach.

use bawaba_policies::sharia;
use serde::Deserialize;
use serde_json::Value;

/// What to do with a screened session whose dialect the kit does not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Opaque {
    /// Close it (4451): what can't be read can't be screened.
    #[default]
    Close,
    /// Let it pass: something else screens it.
    Pass,
}

/// What to do with a session's own orders and positions in refused instruments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OwnRecords {
    /// Show them: they are the holder's own, and a holding has to be seen to be given up.
    #[default]
    Show,
    /// Hide those that do not answer a request.
    Hide,
}

#[derive(Deserialize)]
#[serde(default)]
struct Own {
    opaque: Opaque,
    own_records: OwnRecords,
}

impl Default for Own {
    fn default() -> Self {
        Self { opaque: Opaque::Close, own_records: OwnRecords::Show }
    }
}

/// The whole configuration; `{}` is the data that ships with the rules, and closed wherever there is a choice.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) struct Settings {
    /// Boards, lists, instruments.
    pub(crate) screening: sharia::Settings,
    /// See [`Opaque`].
    pub(crate) opaque: Opaque,
    /// See [`OwnRecords`].
    pub(crate) own_records: OwnRecords,
}

impl TryFrom<Value> for Settings {
    type Error = serde_json::Error;

    /// The keys of this filter beside those of the rules; unknown ones are refused by the rules' settings.
    fn try_from(mut all: Value) -> Result<Self, serde_json::Error> {
        let mut own = Value::Object(serde_json::Map::new());
        for key in ["opaque", "own_records"] {
            if let Some(value) = all.as_object_mut().and_then(|map| map.remove(key)) {
                own[key] = value;
            }
        }
        let own = Own::deserialize(own)?;
        // As text, so that the rules' types are read by one kind of reader in the whole module.
        let screening = serde_json::from_str::<sharia::Settings>(&all.to_string())?;
        Ok(Self { screening, opaque: own.opaque, own_records: own.own_records })
    }
}
