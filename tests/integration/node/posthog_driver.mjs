// An application that makes calls to a version of posthog-node.
//
//     node posthog_driver.mjs PACKAGE
//
// Standard input is one JSON object: `host`, `token`, `calls`, a list of [name of the call, its argument].
// Prints one JSON object: `errors`, what the library reported.
import { readFileSync } from 'node:fs'

const { PostHog } = await import(process.argv[2])
const { host, token, calls } = JSON.parse(readFileSync(0, 'utf8'))
const errors = []
const client = new PostHog(token, { host })
client.on?.('error', (error) => errors.push(String(error)))
for (const [name, argument] of calls) {
  client[name](argument)
}
// Version 2 has no other name for it.
await (client.shutdownAsync?.() ?? client.shutdown(60000))
console.log(JSON.stringify({ errors }))
