import java.sql.DriverManager;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;

/** The JDBC driver, as Metabase and DBeaver use it. */
public class People {
    public static void main(String[] arguments) throws Exception {
        var properties = new Properties();
        properties.put("user", System.getenv("ACCOUNT"));
        properties.put("password", System.getenv("PASSWORD"));
        var url = "jdbc:clickhouse://127.0.0.1:" + System.getenv("HTTP_PORT") + "/tallyhouse_views";
        try (var connection = DriverManager.getConnection(url, properties)) {
            var tables = new ArrayList<String>();
            try (var found = connection.getMetaData().getTables(null, "tallyhouse_views", "%", null)) {
                while (found.next()) tables.add(found.getString("TABLE_NAME"));
            }
            var columns = 0;
            try (var found = connection.getMetaData().getColumns(null, "tallyhouse_views", "events", "%")) {
                while (found.next()) columns++;
            }
            if (!tables.equals(List.of("events", "series_1d", "series_1h", "series_1m")) || columns != 20) {
                throw new IllegalStateException(tables + " " + columns);
            }
            try (var statement = connection.createStatement()) {
                statement.setMaxRows(2000);
                statement.setQueryTimeout(60);
                statement.executeQuery("SELECT * FROM tallyhouse_views.events LIMIT 5").close();
            }
            var series = "SELECT toStartOfHour(bucket) AS t, sum(events) FROM tallyhouse_views.series_1h WHERE dim_set = ? GROUP BY t ORDER BY t";
            try (var statement = connection.prepareStatement(series)) {
                statement.setString(1, "");
                statement.executeQuery().close();
            }
        }
    }
}
