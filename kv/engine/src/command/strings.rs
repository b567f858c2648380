//! Commands on strings.

use super::{Call, Command};
use crate::blob::Blob;
use crate::keyspace::NEVER;
use crate::number::parse_i64;
use crate::object::Object;
use crate::refusal::Refusal;
use crate::resp::Request;
use pdpix::{Exhausted, Heap};

pub(super) const ROWS: &[Command] =
    &[Command { name: "get", arity: 2, run: get }, Command { name: "set", arity: -3, run: set }];

fn get(call: &mut Call<'_>) -> Result<(), Refusal> {
    let key = call.key(1);
    match call.engine.read(call.at, &key).map(|entry| &entry.object) {
        Some(Object::Text(text)) => call.reply.blob(text),
        Some(Object::Integer(value)) => call.reply.bulk_integer(*value),
        None => call.reply.null(),
    }
    Ok(())
}

/// A string in the form in which it is stored.
fn string(request: &Request, index: usize, heap: &Heap) -> Result<Object, Exhausted> {
    let arg = request.arg(index);
    if arg.len() <= 20
        && let Some(value) = parse_i64(arg)
    {
        return Ok(Object::Integer(value));
    }
    Ok(Object::Text(request.blob(index, heap)?))
}

fn set(call: &mut Call<'_>) -> Result<(), Refusal> {
    let key = call.key(1);
    let object = string(call.request, 2, &call.engine.heap)?;
    match call.engine.locate(call.at, &key) {
        Some(place) => {
            let database = call.engine.database(call.at);
            let entry = database.at_mut(place);
            entry.object = object;
            entry.built = false;
            entry.accessed.set(crate::keyspace::access_time(call.at.now));
            if entry.expires().is_some() {
                database.set_expiry(place, NEVER);
            }
        }
        None => {
            let name = call.request.blob(1, &call.engine.heap)?;
            call.engine.add(call.at, name, key.hash, object);
        }
    }
    call.reply.ok();
    Ok(())
}

#[allow(dead_code)]
fn unused(b: Blob) -> Blob {
    b
}
