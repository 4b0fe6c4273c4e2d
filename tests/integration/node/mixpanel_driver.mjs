// An application that uses Mixpanel's Node library.
//
// Standard input is one JSON object: `host` (a URL), `token`, `events`, a list of [distinct_id, name, properties], of which the
// last ten go one by one and the others in batches; `people`, a list of [distinct_id, properties]; `groups`, a list of [key, id,
// properties]; `imports`, a list of [distinct_id, name, Unix time, properties].
// Prints one JSON object: `errors`, what the callbacks were told.
import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import Mixpanel from 'mixpanel'

const { host, token, events, people, groups, imports } = JSON.parse(readFileSync(0, 'utf8'))
const { hostname, port } = new URL(host)
const client = Mixpanel.init(token, { host: hostname, port, protocol: 'http', key: 'mp_key' })
const errors = []
const call = (name, ...args) => callOf(client, name, ...args)
const callOf = (object, name, ...args) => promisify(object[name].bind(object))(...args).catch((error) => errors.push(String(error)))

const shaped = events.map(([distinct_id, event, properties]) => ({ event, properties: { distinct_id, ...properties } }))
await call('track_batch', shaped.slice(0, -10))
await Promise.all(shaped.slice(-10).map(({ event, properties }) => call('track', event, properties)))
for (const [distinct_id, properties] of people) {
  await callOf(client.people, 'set', distinct_id, properties)
}
for (const [key, id, properties] of groups) {
  await callOf(client.groups, 'set', key, id, properties)
}
for (const [distinct_id, event, seconds, properties] of imports) {
  await call('import', event, seconds, { distinct_id, ...properties })
}
console.log(JSON.stringify({ errors }))
