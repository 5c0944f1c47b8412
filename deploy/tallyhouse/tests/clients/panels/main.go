// Asks ClickHouse what the panels of a dashboard ask, through the driver of Grafana's ClickHouse datasource, over both protocols.
//
//	ADDRESS=127.0.0.1:9000 PROTOCOL=native ACCOUNT=grafana_… PASSWORD=… panels < statements.jsonl
//
// Reads {"name","sql"} a line; writes "name<TAB>rows" a line, and ends non-zero at the first statement that fails.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// The datasource's `queryTimeout`. The driver sends it as max_execution_time, and five seconds more.
const timeout = 60 * time.Second

type statement struct{ Name, SQL string }

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	protocol := clickhouse.Native
	if os.Getenv("PROTOCOL") == "http" {
		protocol = clickhouse.HTTP
	}
	connection, err := clickhouse.Open(&clickhouse.Options{
		Addr:     []string{os.Getenv("ADDRESS")},
		Protocol: protocol,
		Auth: clickhouse.Auth{
			Database: "tallyhouse_views",
			Username: os.Getenv("ACCOUNT"),
			Password: os.Getenv("PASSWORD"),
		},
		DialTimeout: 10 * time.Second,
		ReadTimeout: timeout,
	})
	if err != nil {
		return err
	}
	defer connection.Close()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var asked statement
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			return err
		}
		rows, err := ask(connection, asked.SQL)
		if err != nil {
			return fmt.Errorf("%s: %w", asked.Name, err)
		}
		fmt.Printf("%s\t%d\n", asked.Name, rows)
	}
	return lines.Err()
}

// Reads every value, as the datasource does: a type that the driver does not know fails here.
func ask(connection driver.Conn, sql string) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	rows, err := connection.Query(ctx, sql)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	count := 0
	for ; rows.Next(); count++ {
		var values []any
		for _, column := range rows.ColumnTypes() {
			values = append(values, reflect.New(column.ScanType()).Interface())
		}
		if err := rows.Scan(values...); err != nil {
			return 0, err
		}
	}
	return count, rows.Err()
}
