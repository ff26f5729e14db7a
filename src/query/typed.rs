//! Parameters as the fields of a type: what a request may ask for is what the type has, and its description is made from the same type.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::{Params, QueryError, Result};

impl Params {
    /// Takes the parameters that are the fields of a type.
    ///
    /// # Errors
    ///
    /// One of them is not what it may be, is missing, or is given more than once.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<T> {
        T::deserialize(Fields(self)).map_err(|error| QueryError::bad(&error.name, error.reason))
    }
}

/// What is wrong with which parameter.
#[derive(Debug)]
struct ParameterError {
    name: String,
    reason: String,
}

impl fmt::Display for ParameterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

impl std::error::Error for ParameterError {}

impl de::Error for ParameterError {
    fn custom<M: fmt::Display>(reason: M) -> Self {
        Self { name: String::new(), reason: reason.to_string() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { name: field.to_owned(), reason: "is required".to_owned() }
    }
}

/// The parameters as a struct.
struct Fields<'p>(&'p mut Params);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = ParameterError;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> std::result::Result<V::Value, ParameterError> {
        Err(de::Error::custom("parameters are read as the fields of a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, ParameterError> {
        visitor.visit_map(Given { params: self.0, fields: fields.iter(), current: None })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq
        tuple tuple_struct map enum identifier ignored_any
    }
}

/// Those of the fields that are given.
struct Given<'p> {
    params: &'p mut Params,
    fields: std::slice::Iter<'static, &'static str>,
    current: Option<(&'static str, Vec<String>)>,
}

impl<'de> MapAccess<'de> for Given<'_> {
    type Error = ParameterError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> std::result::Result<Option<K::Value>, ParameterError> {
        for name in self.fields.by_ref() {
            let values = self.params.all(name);
            if !values.is_empty() {
                self.current = Some((name, values));
                return seed.deserialize(StrDeserializer::new(name)).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> std::result::Result<S::Value, ParameterError> {
        let (name, values) = self.current.take().unwrap_or_default();
        seed.deserialize(Values(values)).map_err(|error| ParameterError { name: name.to_owned(), ..error })
    }
}

/// The values of one parameter.
struct Values(Vec<String>);

impl Values {
    fn one(mut self) -> std::result::Result<String, ParameterError> {
        match self.0.len() {
            1 => Ok(self.0.pop().unwrap_or_default()),
            _ => Err(de::Error::custom("is given more than once")),
        }
    }
}

impl<'de> Deserializer<'de> for Values {
    type Error = ParameterError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, ParameterError> {
        visitor.visit_string(self.one()?)
    }

    /// An empty value counts as not given.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, ParameterError> {
        let value = self.one()?;
        if value.is_empty() { visitor.visit_none() } else { visitor.visit_some(Self(vec![value])) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> std::result::Result<V::Value, ParameterError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, ParameterError> {
        visitor.visit_seq(Each(self.0.into_iter()))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Each(std::vec::IntoIter<String>);

impl<'de> SeqAccess<'de> for Each {
    type Error = ParameterError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> std::result::Result<Option<S::Value>, ParameterError> {
        self.0.next().map(|value| seed.deserialize(Values(vec![value]))).transpose()
    }
}
