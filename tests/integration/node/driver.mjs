// An application that uses the official Node library as its documentation shows.
//
//     node driver.mjs HOST plain|gzip
//
// Prints one JSON object: `before` and `after` are the wall times in ms around all calls, `errors` what the library reported.
import { PostHog } from 'posthog-node'

const [host, encoding] = process.argv.slice(2)
const BURST = 500
const errors = []
const client = new PostHog('phc_node_sdk', { host, disableCompression: encoding === 'plain' })
client.on('error', (error) => errors.push(String(error)))

const before = Date.now()
client.identify({ distinctId: 'ada', properties: { email: 'ada@example.com', plan: 'pro' } })
client.capture({ distinctId: 'ada', event: 'signed up', properties: { plan: 'pro', seats: 3 } })
client.capture({ distinctId: 'ada', event: 'upgraded', groups: { company: 'acme' } })
client.alias({ distinctId: 'ada', alias: 'anon-1' })
client.groupIdentify({ groupType: 'company', groupKey: 'acme', properties: { name: 'Acme', employees: 11 } })
client.captureException(new RangeError('the cart is empty 🛒'), 'ada', { cart: 'c-1' })
client.capture({
  distinctId: 'ada',
  event: 'explicit',
  timestamp: new Date('2024-02-29T18:00:15.123Z'),
  uuid: '0191f5c0-7c1a-7b5e-9d2f-0123456789ab',
  properties: {
    text: 'Grüße, 世界 🦔👩‍👩‍👧 \u2028 "quoted" \\ back',
    list: [1, 2.5, null, true, { deep: [['x'], {}] }],
    größe: { 日本: 'é' },
    half: 'cut \ud83e here',
    nul: 'a\0b',
  },
})
for (let n = 0; n < BURST; n++) {
  client.capture({ distinctId: `user-${n % 7}`, event: 'burst', properties: { n } })
}
await client.shutdown()
console.log(JSON.stringify({ before, after: Date.now(), errors }))
