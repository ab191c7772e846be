package store

import (
	"sync/atomic"
	"time"
)

// Stats counts what the writer did since the store was opened.
type Stats struct {
	Requests uint64        // written, each by its caller
	Commits  uint64        // transactions on disk
	Failed   uint64        // transactions that were undone
	MaxGroup int           // most requests joined into one transaction
	Busy     time.Duration // time spent in transactions
	Slowest  time.Duration // longest transaction
}

type stats struct{ requests, commits, failed, maxGroup, busy, slowest atomic.Int64 }

// note is called by the writer only.
func (s *stats) note(n int, err error, took time.Duration) {
	s.busy.Add(int64(took))
	s.slowest.Store(max(s.slowest.Load(), int64(took)))
	if err != nil {
		s.failed.Add(1)
		return
	}
	s.requests.Add(int64(n))
	s.commits.Add(1)
	s.maxGroup.Store(max(s.maxGroup.Load(), int64(n)))
}

// Stats returns the counters.
func (s *Store) Stats() Stats {
	return Stats{
		Requests: uint64(s.stats.requests.Load()), Commits: uint64(s.stats.commits.Load()), Failed: uint64(s.stats.failed.Load()),
		MaxGroup: int(s.stats.maxGroup.Load()), Busy: time.Duration(s.stats.busy.Load()), Slowest: time.Duration(s.stats.slowest.Load()),
	}
}
