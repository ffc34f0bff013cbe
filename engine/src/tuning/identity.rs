//! For what choices hold, and how a file has them.

use std::path::Path;

use loaders::{Config, Error, FileSource};
use serde_json::{Map, Value, json};

use super::Choices;
use crate::device::Gpu;

/// What measured times depend on besides the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The adapter's name.
    pub adapter: String,
    /// Backend and driver with version.
    pub driver: String,
    /// Hash of all shaders and of their crate's version.
    pub shaders: String,
}

impl Identity {
    /// That of choices measured on `gpu` by this program.
    pub fn of(gpu: &Gpu) -> Self {
        Identity {
            adapter: gpu.adapter_name().to_owned(),
            driver: gpu.driver(),
            shaders: format!("{:016x}", kernels::shaders_hash()),
        }
    }

    fn fields(&self) -> [(&'static str, &str); 3] {
        [("adapter", &self.adapter), ("driver", &self.driver), ("shaders", &self.shaders)]
    }

    /// The name of the file that has its choices.
    pub fn file_name(&self) -> String {
        format!("tuning-{:016x}.json", kernels::fnv1a(self.fields().map(|(_, value)| value)))
    }

    /// The name of the file that has the driver's pipelines.
    pub fn pipelines_file_name(&self) -> String {
        format!("pipelines-{:016x}.bin", kernels::fnv1a(self.fields().map(|(_, value)| value)))
    }

    /// `choices` as a file has them.
    pub fn to_json(&self, choices: &Choices) -> Value {
        let variants: Map<String, Value> =
            choices.iter().map(|(key, variant)| (key.to_owned(), variant.into())).collect();
        json!({
            "adapter": self.adapter,
            "driver": self.driver,
            "shaders": self.shaders,
            "choices": variants,
            "wrong": choices.distrusted().collect::<Vec<_>>(),
        })
    }

    /// The choices that `config` has, if they were measured for this.
    ///
    /// # Errors
    /// [`Error::Malformed`]: another adapter's, another driver's, other shaders', or none.
    pub fn choices_of(&self, config: &Config) -> Result<Choices, Error> {
        for (key, expected) in self.fields() {
            if config.require::<String>(key)? != expected {
                return Err(config.unexpected(key, format!("{expected:?}")));
            }
        }
        let stored = config.object("choices")?;
        let stored = stored.ok_or_else(|| config.unexpected("choices", "an object"))?;
        let mut choices = Choices::default();
        for (key, variant) in stored.entries() {
            let name = variant.as_str().ok_or_else(|| stored.unexpected(key, "a variant's name"))?;
            choices.insert(key, name);
        }
        for variant in config.or("wrong", Vec::<String>::new())? {
            choices.distrust(variant);
        }
        Ok(choices)
    }
}

/// The choices in the file at `path`, if they were measured for `identity`.
///
/// # Errors
/// [`Error::NotFound`] where nothing was measured yet; as [`Identity::choices_of`], and those of reading.
pub async fn read_choices(path: &Path, identity: &Identity) -> Result<Choices, Error> {
    identity.choices_of(&Config::read(&FileSource::open(path)?).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_another_adapter_driver_or_version_have_other_names() {
        let own = Identity { adapter: "a".into(), driver: "d".into(), shaders: "s".into() };
        let others = [
            Identity { adapter: "b".into(), ..own.clone() },
            Identity { driver: "e".into(), ..own.clone() },
            Identity { shaders: "t".into(), ..own.clone() },
        ];
        for other in others {
            assert_ne!(own.file_name(), other.file_name(), "{other:?}");
            assert_ne!(own.pipelines_file_name(), other.pipelines_file_name(), "{other:?}");
        }
    }
}
