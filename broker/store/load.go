package store

import (
	"context"
	"database/sql"
	"errors"
)

// errStop says that reading ends with the first error.
func errStop(err error) error { return err }

// read reads all tables in the order of their keys, or against it with order " DESC". after decides
// about an error in one table: nil goes on with the next.
func (c *Contents) read(ctx context.Context, conn *sql.Conn, order string, after func(error) error) error {
	for _, table := range []func(context.Context, *sql.Conn, string) error{c.readSessions, c.readSubscriptions, c.readWills, c.readQueued, c.readRetained} {
		if err := table(ctx, conn, order); err != nil {
			if err := after(err); err != nil {
				return err
			}
		}
	}
	return nil
}

// each calls scan for every row of a query.
func each(ctx context.Context, conn *sql.Conn, query string, scan func(*sql.Rows) error) (err error) {
	rows, err := conn.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (c *Contents) readRetained(ctx context.Context, conn *sql.Conn, order string) error {
	return each(ctx, conn, `SELECT topic, payload, qos, props FROM retained ORDER BY topic`+order, func(r *sql.Rows) error {
		var m Message
		err := r.Scan(&m.Topic, &m.Payload, &m.QoS, &m.Props)
		if err == nil {
			c.Retained = append(c.Retained, m)
		}
		return err
	})
}

func (c *Contents) readSessions(ctx context.Context, conn *sql.Conn, order string) error {
	return each(ctx, conn, `SELECT number, client, version, expiry_s, left_s FROM session ORDER BY number`+order, func(r *sql.Rows) error {
		var s Session
		err := r.Scan(&s.Number, &s.Client, &s.Version, &s.Expiry, &s.Left)
		if err == nil {
			c.Sessions = append(c.Sessions, s)
		}
		return err
	})
}

func (c *Contents) readSubscriptions(ctx context.Context, conn *sql.Conn, order string) error {
	return each(ctx, conn, `SELECT session, filter, qos, retain_handling, no_local, retain_as_published, identifier, replay
		FROM subscription ORDER BY session`+order+`, filter`+order, func(r *sql.Rows) error {
		var s Subscription
		err := r.Scan(&s.Session, &s.Filter, &s.QoS, &s.RetainHandling, &s.NoLocal, &s.RetainAsPublished, &s.Identifier, &s.Replay)
		if err == nil {
			c.Subscriptions = append(c.Subscriptions, s)
		}
		return err
	})
}

func (c *Contents) readQueued(ctx context.Context, conn *sql.Conn, order string) error {
	return each(ctx, conn, `SELECT session, id, topic, payload, qos, retain, props FROM queued ORDER BY session`+order+`, id`+order, func(r *sql.Rows) error {
		var q Queued
		err := r.Scan(&q.Session, &q.ID, &q.Topic, &q.Payload, &q.QoS, &q.Retain, &q.Props)
		if err == nil {
			c.Queued = append(c.Queued, q)
		}
		return err
	})
}

func (c *Contents) readWills(ctx context.Context, conn *sql.Conn, order string) error {
	return each(ctx, conn, `SELECT number, topic, payload, qos, retain, props FROM will ORDER BY number`+order, func(r *sql.Rows) error {
		var w Will
		err := r.Scan(&w.Number, &w.Topic, &w.Payload, &w.QoS, &w.Retain, &w.Props)
		if err == nil {
			c.Wills = append(c.Wills, w)
		}
		return err
	})
}
