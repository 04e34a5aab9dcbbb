//! The behaviour that all built-in kinds share: a type of `k8s-openapi` does
//! the reading, and a handful of hooks say what is the kind's own.
//!
//! Objects stay JSON values on the outside. Inside a call they become `T`,
//! so that a hook is ordinary typed code and the compiler knows its fields.

use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::prepare::{self, Rules};
use super::{Behaviour, Column, FieldError, FieldReason, Part};
use crate::shape::{self, Struct, WrongType};
use crate::table::{self, Printer};
use crate::validation::{self, MetaRules, names};

/// Checks a change: new, old, and which part is written.
pub type ValidateUpdate<T> = fn(&T, &T, Part) -> Vec<FieldError>;

/// Behaviour of a kind with the Rust type `T`.
pub struct Typed<T> {
    /// Fills in what a client left out.
    pub default: Option<fn(&mut T)>,
    /// Rules for a new object.
    pub validate: Option<fn(&T) -> Vec<FieldError>>,
    /// Rules for a change: new, old, and which part is written.
    pub validate_update: Option<ValidateUpdate<T>>,
    /// Fills in what follows from the rest of a new object, its name and uid
    /// included.
    pub prepare: Option<fn(&mut T)>,
    /// What a create and an update may touch.
    pub rules: Rules,
    /// Columns and rows.
    pub printer: &'static Printer,
    /// Fields that a field selector may name, as paths such as `spec.nodeName`.
    pub selectable: &'static [&'static str],
    /// The type, which no field holds.
    pub of: PhantomData<fn() -> T>,
}

impl<T> Typed<T> {
    /// A kind without hooks: no defaults, no rules, name and age as columns.
    pub const PLAIN: Typed<T> = Typed {
        default: None,
        validate: None,
        validate_update: None,
        prepare: None,
        rules: Rules::PLAIN,
        printer: &table::NAME_AND_AGE,
        selectable: &[],
        of: PhantomData,
    };
}

impl<T> Behaviour for Typed<T>
where
    T: k8s_openapi::Resource + Serialize + DeserializeOwned + schemars::JsonSchema,
{
    fn normalize(&self, object: &mut Value) -> Result<Vec<String>, String> {
        let shape = self.shape();
        let mut read = T::deserialize(&*object);
        if read.is_err() && shape.is_some_and(|shape| shape::fill_nulls(object, shape)) {
            read = T::deserialize(&*object);
        }
        let typed = read.map_err(|error| explain(T::KIND, object, shape, &error))?;
        let unknown = shape.map(|shape| shape::unknown_fields(object, shape)).unwrap_or_default();
        *object = encode(&typed)?;
        if let Some(shape) = shape {
            shape::canonicalize(object, shape)?;
        }
        Ok(unknown)
    }

    fn default(&self, object: &mut Value) {
        change(object, self.default);
    }

    fn prepare_create(&self, object: &mut Value) {
        prepare::create(object, &self.rules);
        change(object, self.prepare);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, part: Part) {
        prepare::update(object, old, part, &self.rules);
    }

    fn restrict(&self, config: &mut Value, part: Part) {
        prepare::restrict(config, part, &self.rules);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let Some(validate) = self.validate else { return create_meta(object) };
        match read::<T>(object) {
            Ok(typed) => validate(&typed),
            Err(error) => vec![error],
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, part: Part) -> Vec<FieldError> {
        let Some(validate) = self.validate_update else { return update_meta(object, old) };
        match (read::<T>(object), read::<T>(old)) {
            (Ok(new), Ok(old)) => validate(&new, &old, part),
            (Err(error), _) | (_, Err(error)) => vec![error],
        }
    }

    fn columns(&self) -> Vec<Column> {
        self.printer.columns.to_vec()
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        (self.printer.row)(object, now)
    }

    fn selectable(&self, object: &Value, field: &str) -> Option<String> {
        self.selectable.contains(&field).then(|| field_text(object, field))
    }

    fn shape(&self) -> Option<&'static Struct> {
        Struct::named(&T::schema_name())
    }

    fn schema(&self) -> Value {
        schemars::SchemaGenerator::default().into_root_schema_for::<T>().to_value()
    }
}

/// The rules of metadata, which hold for a kind that has none of its own.
fn create_meta(object: &Value) -> Vec<FieldError> {
    match read::<ObjectMeta>(&object["metadata"]) {
        Ok(meta) => {
            // The server has set or removed the namespace already.
            let rules =
                MetaRules { namespaced: meta.namespace.is_some(), name: names::subdomain_name };
            validation::generic_create(&meta, rules)
        }
        Err(error) => vec![error],
    }
}

fn update_meta(object: &Value, old: &Value) -> Vec<FieldError> {
    match (read::<ObjectMeta>(&object["metadata"]), read::<ObjectMeta>(&old["metadata"])) {
        (Ok(new), Ok(old)) => validation::generic_update(&new, &old),
        (Err(error), _) | (_, Err(error)) => vec![error],
    }
}

/// Runs a hook over an object. One that is not of the type stays as it is:
/// validation, which always follows, reports it.
fn change<T: Serialize + DeserializeOwned>(object: &mut Value, hook: Option<fn(&mut T)>) {
    let Some(hook) = hook else { return };
    if let Ok(mut typed) = T::deserialize(&*object) {
        hook(&mut typed);
        if let Ok(value) = encode(&typed) {
            *object = value;
        }
    }
}

fn encode<T: Serialize>(typed: &T) -> Result<Value, String> {
    serde_json::to_value(typed).map_err(|err| err.to_string())
}

fn read<T: DeserializeOwned>(object: &Value) -> Result<T, FieldError> {
    T::deserialize(object).map_err(|error| FieldError {
        field: String::new(),
        reason: FieldReason::TypeInvalid,
        value: Value::Null,
        detail: error.to_string(),
    })
}

/// The text of the field at a dotted path, as a field selector sees it.
fn field_text(object: &Value, field: &str) -> String {
    let path = match field {
        // Names that are not the paths they look like. Who tells an event may say
        // who it is in either of two places.
        "source" if object["source"]["component"].as_str().is_none_or(str::is_empty) => {
            "reportingComponent"
        }
        "source" => "source.component",
        "status.successful" => "status.succeeded",
        path => path,
    };
    match path.split('.').try_fold(object, |value, part| value.get(part)) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        // What is left out has its type's zero value.
        _ => match field {
            "spec.hostNetwork" | "spec.unschedulable" => "false".to_owned(),
            "status.replicas" | "status.successful" => "0".to_owned(),
            _ => String::new(),
        },
    }
}

/// Words an object that cannot be read as Go's decoder does, since people
/// search for that text:
/// `json: cannot unmarshal string into Go struct field Deployment.spec.replicas of type int32`.
fn explain(
    kind: &str,
    object: &Value,
    shape: Option<&'static Struct>,
    error: &serde_json::Error,
) -> String {
    match shape.and_then(|shape| shape::wrong_type(object, shape)) {
        Some(WrongType { path, got, wanted }) => {
            format!(
                "json: cannot unmarshal {got} into Go struct field {kind}.{path} of type {wanted}"
            )
        }
        None => error.to_string(),
    }
}
