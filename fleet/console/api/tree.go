package api

import (
	"fmt"
	"net/http"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/console/explore"
	"github.com/farebeat/farebeat/fleet/console/view"
)

type brokerIn struct {
	Find string `query:"find" maxLength:"256" doc:"Only clients whose id, role, name, listener or address contains this, case ignored"`
	Paged
}

type topicsIn struct {
	At    string `query:"at" maxLength:"256" doc:"Level of the tree behind the operator, such as vehicle/; all of it without it"`
	Find  string `query:"find" maxLength:"256" doc:"Topics below it that contain this, or that it matches where it has + or #"`
	After string `query:"after" maxLength:"256" doc:"What the page before says of the next"`
	Limit int    `query:"limit" minimum:"1" maximum:"500" doc:"Rows of a page; 100 without it"`
}

type topicIn struct {
	Topic string `query:"topic" required:"true" minLength:"1" maxLength:"256" doc:"The whole topic, or what is behind the operator"`
}

// registerTree makes the operations about the broker and what stands on its topics.
func (a *API) registerTree() {
	register(a, op{
		id: "broker", method: http.MethodGet, path: "/broker", tag: "broker", need: access.Viewer, summary: "The broker: clients, rates, what should be 0, listeners",
		description: "Totals are since the start; rates are over some seconds.",
	}, func(c call, in *brokerIn) (*page[view.Broker], error) {
		b, err := a.o.View.Broker(c, view.BrokerQuery{Find: in.Find, Page: in.Page, Limit: in.Limit})
		return &page[view.Broker]{c.nextPage(b.Page, b.Pages), b}, err
	})
	register(a, op{
		id: "topics", method: http.MethodGet, path: "/topics", tag: "broker", need: access.Viewer, summary: "A level of the topic tree, or topics that are looked for",
		description: "It is listened to the tree from the first call on and for a minute after the last: the first answer may hold nothing yet.",
	}, func(c call, in *topicsIn) (*page[explore.Level], error) {
		if a.o.Explore == nil {
			return nil, fmt.Errorf("topics: %w: nobody listens to the tree here", view.ErrNotFound)
		}
		limit := in.Limit
		if limit == 0 {
			limit = 100
		}
		l, err := a.o.Explore.Levels(c, in.At, in.Find, in.After, limit)
		return &page[explore.Level]{c.next("after", l.After), l}, err
	})
	register(a, op{
		id: "topic", method: http.MethodGet, path: "/topics/message", tag: "broker", need: access.Viewer, summary: "What stands on a topic, and whether it is what its schema says",
	}, func(c call, in *topicIn) (*body[explore.TopicView], error) {
		if a.o.Explore == nil {
			return nil, fmt.Errorf("topics: %w: nobody listens to the tree here", view.ErrNotFound)
		}
		v, ok := a.o.Explore.Topic(c, in.Topic)
		if !ok {
			return nil, fmt.Errorf("topic %s: %w: nothing was heard there since it is listened", in.Topic, view.ErrNotFound)
		}
		return &body[explore.TopicView]{v}, nil
	})
}
