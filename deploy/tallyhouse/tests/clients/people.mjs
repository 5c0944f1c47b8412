// @clickhouse/client, and the driver of Cube.
import { createRequire } from 'node:module';
import { createClient } from '@clickhouse/client';

const { ACCOUNT: username, PASSWORD: password, HTTP_PORT: port } = process.env;
const url = `http://127.0.0.1:${port}`;
const VIEWS = ['events', 'series_1d', 'series_1h', 'series_1m'];
const expect = (is, what) => { if (!is) throw new Error(what); };

const client = createClient({ url, username, password });
const rows = async (query) => (await client.query({ query, format: 'JSONEachRow' })).json();
expect((await rows('SHOW TABLES')).map((row) => row.name).join() === VIEWS.join(), 'tables');
await rows('SELECT * FROM events LIMIT 5');
await rows("SELECT toStartOfHour(bucket) AS t, sum(events) AS n FROM series_1h WHERE dim_set = '' GROUP BY t ORDER BY t");
await client.close();

try {
  const { ClickHouseDriver } = createRequire(import.meta.url)('@cubejs-backend/clickhouse-driver');
  const driver = new ClickHouseDriver({ host: '127.0.0.1', port, username, password, database: 'tallyhouse_views' });
  await driver.testConnection();
  expect(Object.keys((await driver.tablesSchema()).tallyhouse_views).sort().join() === VIEWS.join(), 'schema of Cube');
  await driver.query('SELECT count() AS n FROM events', []);
} catch (error) {
  if (error.code !== 'MODULE_NOT_FOUND') throw error;
  console.log('SKIPPED Cube: npm install @cubejs-backend/clickhouse-driver');
}
process.exit(0);
