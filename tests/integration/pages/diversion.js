// Calls of the libraries that do not bring events are answered by the page's own server, as a balancer in front of the edge would have
// the application answer them. What brings events goes where the library sends it.
function diverted(url) {
  if (/\/static\/recorder\.js/.test(url)) return '/packages/posthog-js-1.258/dist/recorder.js'
  return /\/(decide|flags|array|static)\//.test(url) ? '/application/' : url
}

const { fetch } = window
window.fetch = (url, ...rest) => fetch(diverted(String(url)), ...rest)

const { open } = XMLHttpRequest.prototype
XMLHttpRequest.prototype.open = function (method, url, ...rest) {
  return open.call(this, method, diverted(String(url)), ...rest)
}

const { get, set } = Object.getOwnPropertyDescriptor(HTMLScriptElement.prototype, 'src')
Object.defineProperty(HTMLScriptElement.prototype, 'src', {
  get,
  set(url) {
    set.call(this, diverted(url))
  },
})

// What the library says it captured, kept for the next page: [name, its uuid or $insert_id, timestamp and type of each piece of a recording].
const captured = JSON.parse(sessionStorage.captured ?? '[]')
function note(name, event) {
  const { $insert_id, $snapshot_data = [] } = event.properties
  const pieces = [$snapshot_data].flat().map(({ timestamp, type }) => `${timestamp} ${type}`)
  captured.push([name, event.uuid ?? $insert_id ?? null, pieces])
  sessionStorage.captured = JSON.stringify(captured)
}

const TEXT = 'Grüße, 世界 🦔👩‍👩‍👧 \u2028 "quoted" \\ back'
const NESTED = [1, 2.5, null, true, { deep: [['x'], {}] }]
const HALF_AN_EMOJI = 'cut \ud83e here'

const query = new URLSearchParams(location.search)
const host = query.get('host')
const token = query.get('token')
const visits = Array.from({ length: Number(query.get('events')) }, (_, n) => ({ n, text: TEXT, list: NESTED, half: HALF_AN_EMOJI }))
