package console

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/farebeat/farebeat/fleet/console/act"
	"github.com/farebeat/farebeat/fleet/console/view"
)

func (c *Console) loadLedger(r *http.Request) (content, error) {
	q := r.URL.Query()
	page, err := pageNumber(q)
	if err != nil {
		return content{}, err
	}
	b, err := c.o.View.Ledger(r.Context(), view.BookQuery{Day: q.Get("day"), Show: q.Get("show"), Find: q.Get("find"), Page: page})
	return content{"Ledger", struct {
		view.Book
		Proof act.Proof
	}{b, c.o.Act.Proof()}}, err
}

func (c *Console) loadMachineBook(r *http.Request) (content, error) {
	b, err := c.o.View.MachineBook(r.Context(), r.PathValue("machine"))
	return content{"Ledger of machine " + r.PathValue("machine"), b}, err
}

// certificate gives a certificate of a machine's service day as it was signed: the newest, or that of the revision in the query.
func (c *Console) certificate(w http.ResponseWriter, r *http.Request) {
	var revision uint64
	if text := r.URL.Query().Get("revision"); text != "" {
		var err error
		if revision, err = strconv.ParseUint(text, 10, 32); err != nil || revision == 0 {
			err = fmt.Errorf("%w: revision %q: want a number from 1 on", view.ErrUsage, text)
			c.fail(w, r, status(err), err)
			return
		}
	}
	cert, err := c.o.View.Certificate(r.Context(), r.PathValue("machine"), r.PathValue("date"), uint32(revision))
	if err != nil {
		c.fail(w, r, status(err), err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Disposition", `attachment; filename="certificate.json"`)
	_, _ = w.Write(cert.Body) // a browser that went away
}
