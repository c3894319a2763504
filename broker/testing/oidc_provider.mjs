// A small OpenID Connect provider for tests, on the loopback: it gives JWT access tokens to clients that sign in by
// themselves (RFC 6749, 4.4), for the audience that they ask for (RFC 8707), and keeps everything in memory.
//
//   node oidc_provider.mjs MODULES SETTINGS
//
// MODULES: where npm has put `oidc-provider`. SETTINGS: JSON with port, clients (id → secret), audiences, seconds (how
// long a token lasts) and scope. It says `ready` when it listens.

import { generateKeyPairSync } from 'node:crypto';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, text] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(join(modules, 'oidc-provider/lib/index.js')));
const settings = JSON.parse(text);

const key = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });

function resource(name) {
  if (!settings.audiences.includes(name)) throw new Error(`nobody here is called ${name}`);
  return {
    scope: settings.scope,
    audience: name,
    accessTokenFormat: 'jwt',
    accessTokenTTL: settings.seconds,
    jwt: { sign: { alg: 'RS256' } },
  };
}

const provider = new Provider(`http://127.0.0.1:${settings.port}`, {
  jwks: { keys: [{ ...key, use: 'sig', alg: 'RS256', kid: 'tests' }] },
  clients: Object.entries(settings.clients).map(([id, secret]) => ({
    client_id: id,
    client_secret: secret,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
  })),
  scopes: ['openid', ...settings.scope.split(' ')],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => settings.audiences[0],
      getResourceServerInfo: (_, name) => resource(name),
    },
  },
});

provider.listen(settings.port, '127.0.0.1', () => console.log('ready'));
