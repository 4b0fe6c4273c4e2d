// Fastify on node: what job.py does, with JSON.parse, zlib and lz-string.
//
//     node fastify_peer.cjs PORT

const fs = require('node:fs')
const zlib = require('node:zlib')
const LZString = require('lz-string')
const app = require('fastify')({ bodyLimit: 20 * 1024 * 1024 })

const BUFFER_BYTES = 64 * 1024
const PATHS = ['/i/v0/e/', '/e/', '/batch/']
const journal = fs.openSync(process.env.BENCH_DATA, 'a')
let lines = []
let buffered = 0

function append(text) {
    lines.push(text)
    buffered += text.length + 1
    if (buffered >= BUFFER_BYTES) {
        fs.writeSync(journal, lines.join('\n') + '\n')
        lines = []
        buffered = 0
    }
}

function unwrap(body, query) {
    const compression = query.compression ?? ''
    // Not every client says so.
    if (body?.[0] === 0x1f && body[1] === 0x8b) return zlib.gunzipSync(body).toString()
    if (compression === 'lz64') return LZString.decompressFromBase64(body.toString('latin1'))
    if (query.data !== undefined) return Buffer.from(query.data, 'base64').toString()
    return body.toString()
}

function capture(request, reply) {
    let text, parsed
    try {
        text = unwrap(request.body, request.query)
        parsed = JSON.parse(text)
    } catch {
        return reply.code(400).send({ error: 'expected JSON' })
    }
    for (const event of parsed.batch ?? [parsed]) {
        if (!(event.api_key || parsed.api_key) || !event.event || !(event.distinct_id || event.properties?.distinct_id)) {
            return reply.code(400).send({ error: 'expected api_key, event and distinct_id' })
        }
    }
    append(text)
    return reply.send({ status: 1 })
}

app.removeAllContentTypeParsers()
app.addContentTypeParser('*', { parseAs: 'buffer' }, (request, body, done) => done(null, body))
for (const path of PATHS) app.route({ method: ['GET', 'POST'], url: path, handler: capture })
app.listen({ host: '127.0.0.1', port: Number(process.argv[2]), backlog: 1024 })
