// An application that uses Mixpanel's Node library.
//
// Standard input is one JSON object: `host` (a URL), `token`, `events`, a list of [distinct_id, name, properties], of which the
// last ten go one by one and the others in batches; then `people`, a list of [distinct_id, properties].
// Prints one JSON object: `errors`, what the callbacks were told.
import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import Mixpanel from 'mixpanel'

const { host, token, events, people } = JSON.parse(readFileSync(0, 'utf8'))
const { hostname, port } = new URL(host)
const client = Mixpanel.init(token, { host: hostname, port, protocol: 'http' })
const errors = []
const call = (name, ...args) => promisify(client[name])(...args).catch((error) => errors.push(String(error)))

const shaped = events.map(([distinct_id, event, properties]) => ({ event, properties: { distinct_id, ...properties } }))
await call('track_batch', shaped.slice(0, -10))
await Promise.all(shaped.slice(-10).map(({ event, properties }) => call('track', event, properties)))
for (const [distinct_id, properties] of people) {
  await promisify(client.people.set.bind(client.people))(distinct_id, properties).catch((error) => errors.push(String(error)))
}
console.log(JSON.stringify({ errors }))
