package powercut

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// raw is a store without any care but SQLite's, with the durability that is asked for.
func raw(synchronous string) Subject[*sql.DB] {
	s := Subject[*sql.DB]{
		Name: "raw SQLite, synchronous=" + synchronous,
		Open: func(dir string) (*sql.DB, error) {
			db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "raw.db")+
				"?_pragma=journal_mode(WAL)&_pragma=wal_autocheckpoint(6)&_pragma=synchronous("+synchronous+")")
			if err != nil {
				return nil, err
			}
			db.SetMaxOpenConns(1)
			_, err = db.Exec(`CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, body TEXT)`)
			if err != nil {
				_ = db.Close()
				return nil, err
			}
			return db, nil
		},
		Close: func(db *sql.DB) error { return db.Close() },
		Dump: func(db *sql.DB) (string, error) {
			return Tables(db.Query)
		},
	}
	for i := range 8 {
		s.Steps = append(s.Steps, Step[*sql.DB]{fmt.Sprint("insert ", i), func(db *sql.DB) error {
			_, err := db.Exec(`INSERT OR REPLACE INTO t VALUES (?, ?)`, i, strings.Repeat(fmt.Sprint(i), 3000))
			return err
		}})
		if i == 4 {
			s.Steps = append(s.Steps, Step[*sql.DB]{Name: "reopen"})
		}
	}
	return s
}

func TestSQLiteThatSyncsLosesNothing(t *testing.T) { Prove(t, raw("FULL")) }

// The proof is worth something only where it finds what is wrong: SQLite that does not sync, or not at every commit.
func TestSQLiteThatDoesNotSyncIsFoundOut(t *testing.T) {
	for _, synchronous := range []string{"OFF", "NORMAL"} {
		t.Run(synchronous, func(t *testing.T) {
			p := newProof(t, raw(synchronous))
			var found []error
			points := some(p.ops)
			for _, at := range points {
				if err := p.cutAt(at); err != nil {
					found = append(found, err)
				}
			}
			if len(found) < len(points)/4 {
				t.Fatalf("loss was found at %d of %d operations", len(found), len(points))
			}
			t.Logf("loss was found at %d of %d operations", len(found), len(points))
		})
	}
}
