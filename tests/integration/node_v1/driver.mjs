// An application that uses the official Node library over capture v1.
//
//     POSTHOG_CAPTURE_MODE=v1 node driver.mjs HOST plain|gzip
//
// Prints one JSON object: `errors` is a list of [what the library reported, the events it says were dropped].
import { PostHog } from 'posthog-node'

const [host, encoding] = process.argv.slice(2)
const BURST = 300
const errors = []
const report = (error) => errors.push([String(error), error.drops ?? []])
const open = (options) => {
  const client = new PostHog('phc_node_v1', { host, disableCompression: encoding === 'plain', ...options })
  client.on('error', report)
  return client
}

const client = open({})
client.identify({ distinctId: 'ada', properties: { email: 'ada@example.com' } })
client.capture({ distinctId: 'ada', event: 'signed up', properties: { plan: 'pro', $session_id: 's-1' } })
client.capture({ distinctId: 'ada', event: 'personless', properties: { $process_person_profile: false } })
client.capture({ distinctId: 'ada', event: '$ai_generation', properties: { $ai_model: 'm' } })
client.capture({
  distinctId: 'ada',
  event: 'explicit',
  timestamp: new Date('2024-02-29T18:00:15.123Z'),
  uuid: '0191f5c0-7c1a-7b5e-9d2f-0123456789ab',
  properties: { text: 'Grüße, 世界 🦔👩‍👩‍👧 \u2028 "quoted" \\ back', half: 'cut \ud83e here', nul: 'a\0b' },
})
client.capture({ distinctId: 'undefined', event: 'no person' })
client.capture({ distinctId: 'x'.repeat(201), event: 'too long an id', uuid: '0191f5c0-7c1a-7b5e-9d2f-0123456789ac' })
for (let n = 0; n < BURST; n++) {
  client.capture({ distinctId: `user-${n % 7}`, event: 'burst', properties: { n } })
}
await client.shutdown()
const importer = open({ historicalMigration: true })
importer.capture({ distinctId: 'ada', event: 'long ago', timestamp: new Date('2024-02-29T18:00:15.123Z') })
await importer.shutdown()
console.log(JSON.stringify({ errors }))
