// An OAuth server for the identity's tests: `node server.mjs FOLDER`.
//
// It reads key.pem and cert.pem (its own TLS) and client.pem (the application's certificate) from
// the folder, listens on a free port of loopback, prints one line of JSON when it is ready, and
// ends with its standard input. Token and device endpoints are where Entra has them; everything
// else, every check above all, is oidc-provider's.
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { join } from 'node:path';
import Provider, { errors } from 'oidc-provider';

const folder = process.argv[2];
const read = (name) => readFileSync(join(folder, name));
const TENANT = 'contoso';
const RESOURCE = 'https://api.securitycenter.microsoft.com';
const SCOPE = `${RESOURCE}/.default`;

const common = { redirect_uris: [], response_types: [], scope: SCOPE };
const applications = { ...common, grant_types: ['client_credentials'] };
const certificate = new X509Certificate(read('client.pem'));
const clients = [
  {
    ...applications,
    client_id: 'with-secret',
    client_secret: 's+e cret/=~& of a client',
    token_endpoint_auth_method: 'client_secret_post',
  },
  {
    ...applications,
    client_id: 'with-certificate',
    token_endpoint_auth_method: 'private_key_jwt',
    token_endpoint_auth_signing_alg: 'PS256',
    jwks: { keys: [certificate.publicKey.export({ format: 'jwk' })] },
  },
];

const server = createServer({ key: read('key.pem'), cert: read('cert.pem') });
server.listen(0, '127.0.0.1', () => {
  const origin = `https://localhost:${server.address().port}`;
  const provider = new Provider(origin, {
    clients,
    scopes: [SCOPE],
    routes: { token: `/${TENANT}/oauth2/v2.0/token` },
    ttl: { ClientCredentials: 1234 },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        // Entra reads the resource from the scope.
        defaultResource: () => RESOURCE,
        getResourceServerInfo(_, resource) {
          if (resource !== RESOURCE) throw new errors.InvalidTarget();
          const jwt = { sign: { alg: 'RS256' } };
          return { scope: SCOPE, audience: RESOURCE, accessTokenFormat: 'jwt', jwt };
        },
      },
    },
  });
  server.on('request', provider.callback());
  console.log(JSON.stringify({ origin, tenant: TENANT, scope: SCOPE }));
});
process.stdin.on('end', () => process.exit(0)).resume();
