// Package configs reads Farebeat's configuration: defaults, then a YAML file, then
// the environment, then flags; the later wins. A key that does not exist is an
// error. It is the only importer of viper.
package configs

import (
	"time"
)

// Config is everything that an operator can set. Its zero value is not valid; begin with
// Default.
type Config struct {
	// Operator is the level of the topic tree after farebeat/v1.
	Operator string `mapstructure:"operator" yaml:"operator" validate:"required,max=64"`
	// TimeZone is the operator's IANA time zone: hours and service days are counted in it.
	TimeZone string `mapstructure:"timezone" yaml:"timezone" validate:"required,timezone"`
	// Data is the folder that holds everything durable.
	Data    string  `mapstructure:"data" yaml:"data" validate:"required"`
	Log     Log     `mapstructure:"log" yaml:"log"`
	Broker  Broker  `mapstructure:"broker" yaml:"broker"`
	Fleet   Fleet   `mapstructure:"fleet" yaml:"fleet"`
	Console Console `mapstructure:"console" yaml:"console"`
	Enrol   Enrol   `mapstructure:"enrol" yaml:"enrol"`
	Client  Client  `mapstructure:"client" yaml:"client"`
	Edge    Edge    `mapstructure:"edge" yaml:"edge"`
	Machine Machine `mapstructure:"machine" yaml:"machine"`
}

// Log says what is written to standard error.
type Log struct {
	Level string `mapstructure:"level" yaml:"level" validate:"oneof=debug info warn error"`
}

// Broker configures the embedded MQTT broker of `farebeat serve`.
type Broker struct {
	Listeners []Listener `mapstructure:"listeners" yaml:"listeners" validate:"min=1,unique=Name,dive"`
	// UsersFile lists who may connect, see `farebeat users`. Without it only anonymous
	// readers of a loopback listener can. It is read again when it changes.
	UsersFile string `mapstructure:"users_file" yaml:"users_file"`
	// StoreFile is where the broker keeps what must outlive it; empty: broker.db in Data; none: in memory only.
	StoreFile string `mapstructure:"store_file" yaml:"store_file"`
	// MetricsAddress serves Prometheus metrics under /metrics; empty: nowhere.
	MetricsAddress string `mapstructure:"metrics_address" yaml:"metrics_address" validate:"omitempty,hostname_port"`
	// MetricsBeyondLoopback serves them on an address that others reach: in clear, and to everybody who asks.
	MetricsBeyondLoopback bool `mapstructure:"metrics_beyond_loopback" yaml:"metrics_beyond_loopback"`
	// AllowSimulator admits users of the role simulator, which may speak for any machine.
	AllowSimulator bool   `mapstructure:"allow_simulator" yaml:"allow_simulator"`
	Limits         Limits `mapstructure:"limits" yaml:"limits"`
}

// Limits bound what clients may take of the broker; 0 is the default. Its fields are those of broker.Limits, which says more of each.
type Limits struct {
	// An address is an IPv4 address or a /64 of IPv6. All who come by one NAT or proxy are one. Loopback is not bounded.
	ConnectionsPerAddress int `mapstructure:"connections_per_address" yaml:"connections_per_address" validate:"min=0,max=1000000"`
	// ConnectsPerAddress is a second, once ConnectBurst is used up.
	ConnectsPerAddress int `mapstructure:"connects_per_address" yaml:"connects_per_address" validate:"min=0,max=1000000"`
	ConnectBurst       int `mapstructure:"connect_burst" yaml:"connect_burst" validate:"min=0,max=1000000"`
	// Handshakes are connections whose CONNECT is not accepted yet; beyond, the oldest is closed.
	Handshakes int `mapstructure:"handshakes" yaml:"handshakes" validate:"min=0,max=1000000"`
	// ConnectionsPerDevice is of one machine or gateway; the oldest makes room. ConnectionsPerUser is of one other user.
	ConnectionsPerDevice int `mapstructure:"connections_per_device" yaml:"connections_per_device" validate:"min=0,max=1000000"`
	ConnectionsPerUser   int `mapstructure:"connections_per_user" yaml:"connections_per_user" validate:"min=0,max=1000000"`
	// SessionsPerIdentity are kept for clients that come back; the one that left the longest ago makes room.
	SessionsPerIdentity int `mapstructure:"sessions_per_identity" yaml:"sessions_per_identity" validate:"min=0,max=1000000"`
	ConnectBytes        int `mapstructure:"connect_bytes" yaml:"connect_bytes" validate:"omitempty,min=1024,max=262144"`
	PacketBytes         int `mapstructure:"packet_bytes" yaml:"packet_bytes" validate:"omitempty,min=1114112,max=16777216"`
	Subscriptions       int `mapstructure:"subscriptions" yaml:"subscriptions" validate:"min=0,max=65535"` // of one client
	// Messages and Bytes are what an identity may send in a second before it is read from more slowly.
	Messages int `mapstructure:"messages" yaml:"messages" validate:"omitempty,min=10,max=1000000"`
	Bytes    int `mapstructure:"bytes" yaml:"bytes" validate:"omitempty,min=65536,max=268435456"`
	// Heartbeats are of one machine in a second; more are dropped.
	Heartbeats int `mapstructure:"heartbeats" yaml:"heartbeats" validate:"min=0,max=100000"`
	// SlowReader is for how long a client's queue may be full.
	SlowReader time.Duration `mapstructure:"slow_reader" yaml:"slow_reader" validate:"omitempty,min=1s,max=24h"`
	// What the topics of one gateway may hold, and all together.
	RetainedPerGateway      int   `mapstructure:"retained_per_gateway" yaml:"retained_per_gateway" validate:"min=0,max=10000000"`
	RetainedBytesPerGateway int64 `mapstructure:"retained_bytes_per_gateway" yaml:"retained_bytes_per_gateway" validate:"omitempty,min=1048576,max=1099511627776"`
	RetainedBytes           int64 `mapstructure:"retained_bytes" yaml:"retained_bytes" validate:"omitempty,min=1048576,max=17592186044416"`
}

// Listener is one address on which the broker takes connections.
type Listener struct {
	Name    string `mapstructure:"name" yaml:"name" validate:"required"`
	Kind    string `mapstructure:"kind" yaml:"kind" validate:"oneof=tcp tls ws wss"`
	Address string `mapstructure:"address" yaml:"address" validate:"hostname_port"`
	// CertFile and KeyFile are PEM files, required for tls and wss. They are read again when they change.
	CertFile string `mapstructure:"cert_file" yaml:"cert_file,omitempty" validate:"required_if=Kind tls,required_if=Kind wss"`
	KeyFile  string `mapstructure:"key_file" yaml:"key_file,omitempty" validate:"required_if=Kind tls,required_if=Kind wss"`
	// ClientCAFile holds the authorities that sign the certificates of clients: machines and gateways that were enrolled need no
	// password. Empty: certificates are not asked for.
	ClientCAFile string `mapstructure:"client_ca_file" yaml:"client_ca_file,omitempty"`
	// ClientCertRequired refuses clients without such a certificate, those with a password included.
	ClientCertRequired bool `mapstructure:"client_cert_required" yaml:"client_cert_required,omitempty"`
	// PlaintextBeyondLoopback serves tcp or ws on an address that others reach: passwords and transactions cross the network in clear.
	PlaintextBeyondLoopback bool `mapstructure:"plaintext_beyond_loopback" yaml:"plaintext_beyond_loopback,omitempty"`
	// AnonymousReaders lets anyone read on a loopback address; nobody writes without a user.
	AnonymousReaders bool `mapstructure:"anonymous_readers" yaml:"anonymous_readers,omitempty"`
	// ReadOnly refuses every publish, and connections that bring a will; who may read what is as elsewhere.
	ReadOnly bool `mapstructure:"read_only" yaml:"read_only,omitempty"`
}

// Fleet configures presence, expectation, rules and ledger.
type Fleet struct {
	// GTFS is a feed (zip or folder) from which expectations come.
	GTFS string `mapstructure:"gtfs" yaml:"gtfs"`
	// ExpectedFile is a CSV [date,]route_id,hour,expected_vehicles_in_service in the feed's stead.
	ExpectedFile string `mapstructure:"expected_file" yaml:"expected_file" validate:"excluded_with=GTFS"`
	// Expected are numbers set by hand; they win over both.
	Expected []HandExpectation `mapstructure:"expected" yaml:"expected" validate:"dive"`
	// Holidays are dates (YYYY-MM-DD) that are judged as a Sunday.
	Holidays []string `mapstructure:"holidays" yaml:"holidays" validate:"dive,datetime=2006-01-02"`
	// HolidaysFile lists more of them, one a line.
	HolidaysFile string `mapstructure:"holidays_file" yaml:"holidays_file"`
	// Influx are the InfluxDBs that the online counts are shipped to.
	Influx []Influx `mapstructure:"influx" yaml:"influx" validate:"unique=Name,dive"`
	// KeepMinutes is for how long the counts of minutes are kept in the embedded store, 24 h to 2 years; those of hours for two years.
	// What an InfluxDB has not taken yet is kept twice as long.
	KeepMinutes time.Duration `mapstructure:"keep_minutes" yaml:"keep_minutes" validate:"min=24h,max=17520h"`
	// Depots name the gateways that stand in depots' yards.
	Depots []Depot `mapstructure:"depots" yaml:"depots" validate:"unique=Name,dive"`
	// RulesFile replaces the default rules.
	RulesFile string `mapstructure:"rules_file" yaml:"rules_file"`
	// MasterKey is the 32-byte key from which machine keys are derived, as hex. It is meant for the environment; MasterKeyFile for a file.
	MasterKey Secret `mapstructure:"master_key" yaml:"master_key" validate:"excluded_with=MasterKeyFile"`
	// MasterKeyFile holds that key. Without both it is the systemd credential master-key, or master.key in Data.
	MasterKeyFile string `mapstructure:"master_key_file" yaml:"master_key_file"`
	// HeartbeatInterval is how often machines are told to send, 1 s to 10 min.
	HeartbeatInterval time.Duration `mapstructure:"heartbeat_interval" yaml:"heartbeat_interval" validate:"min=1s,max=10m"`
	// Tick is how often states and rules are evaluated, 100 ms to 1 min.
	Tick time.Duration `mapstructure:"tick" yaml:"tick" validate:"min=100ms,max=1m"`
	// TicketValidity is for how long the ticket holds with which a gateway opens sessions with a machine over BLE, 10 min to
	// 7 days. It is renewed at half of that while the machine's fault stands.
	TicketValidity time.Duration `mapstructure:"ticket_validity" yaml:"ticket_validity" validate:"min=10m,max=168h"`
	Notify         Notify        `mapstructure:"notify" yaml:"notify"`
}

// Notify says whom to tell of faults outside of MQTT.
type Notify struct {
	Webhooks      []Webhook      `mapstructure:"webhooks" yaml:"webhooks" validate:"unique=Name,dive"`
	Alertmanagers []Alertmanager `mapstructure:"alertmanagers" yaml:"alertmanagers" validate:"unique=Name,dive"`
	// Resend is how often an Alertmanager is sent all that stands, 10 s to 10 min.
	Resend time.Duration `mapstructure:"resend" yaml:"resend" validate:"min=10s,max=10m"`
	// MaxAge is how old an event may be and still be sent to a webhook, 1 h to 90 days.
	MaxAge time.Duration `mapstructure:"max_age" yaml:"max_age" validate:"min=1h,max=2160h"`
	// RefusedFor is how old an event must be to be set aside when a receiver refuses it, 1 min to 90 days.
	RefusedFor time.Duration `mapstructure:"refused_for" yaml:"refused_for" validate:"min=1m,max=2160h"`
	// GTFSRT serves faults of routes as GTFS-realtime service alerts beside the metrics.
	GTFSRT bool `mapstructure:"gtfs_rt" yaml:"gtfs_rt"`
}

// Webhook is one receiver of signed events.
type Webhook struct {
	Name string `mapstructure:"name" yaml:"name" validate:"required,max=64"`
	URL  string `mapstructure:"url" yaml:"url" validate:"required"`
	// SecretFile holds its secrets, whsec_... a line.
	SecretFile  string   `mapstructure:"secret_file" yaml:"secret_file" validate:"required"`
	MinSeverity string   `mapstructure:"min_severity" yaml:"min_severity,omitempty" validate:"omitempty,oneof=info minor major critical"`
	Kinds       []string `mapstructure:"kinds" yaml:"kinds,omitempty"`   // empty: all
	Routes      []string `mapstructure:"routes" yaml:"routes,omitempty"` // empty: all
	// AllowHTTP lets events leave in clear to another host.
	AllowHTTP bool `mapstructure:"allow_http" yaml:"allow_http,omitempty"`
}

// Alertmanager is one instance.
type Alertmanager struct {
	Name string `mapstructure:"name" yaml:"name" validate:"required,max=64"`
	// URL is its address without /api/v2.
	URL string `mapstructure:"url" yaml:"url" validate:"required"`
	// CredentialsFile holds the value of the header Authorization, such as Bearer TOKEN; empty: none is sent.
	CredentialsFile string `mapstructure:"credentials_file" yaml:"credentials_file,omitempty"`
	// AllowHTTP lets alerts leave in clear to another host.
	AllowHTTP bool `mapstructure:"allow_http" yaml:"allow_http,omitempty"`
}

// Influx is one InfluxDB, 1.8, 2.x or 3.x.
type Influx struct {
	// Name is a name of its own: how far it has come is kept under it.
	Name string `mapstructure:"name" yaml:"name" validate:"required,max=48"`
	URL  string `mapstructure:"url" yaml:"url" validate:"required,http_url"`
	// TokenFile holds the token; of 1.8 user:password. Empty for none.
	TokenFile string `mapstructure:"token_file" yaml:"token_file,omitempty"`
	// Org is the organisation of 2.x; empty for 1.8 and 3.x.
	Org string `mapstructure:"org" yaml:"org,omitempty"`
	// Bucket is the bucket of 2.x, the database of 3.x; of 1.8 database/retention-policy, or the database alone.
	Bucket string `mapstructure:"bucket" yaml:"bucket" validate:"required"`
	// Timeout of one request, 1 s to 5 min; 0: 10 s.
	Timeout time.Duration `mapstructure:"timeout" yaml:"timeout,omitempty" validate:"omitempty,min=1s,max=5m"`
	// Plain sends without gzip.
	Plain bool `mapstructure:"plain" yaml:"plain,omitempty"`
}

// Console configures the web console and HTTP API of `farebeat serve`.
type Console struct {
	// Address is where they are served; empty: nowhere.
	Address string `mapstructure:"address" yaml:"address" validate:"omitempty,hostname_port"`
	// CertFile and KeyFile are PEM files. Without them it is plain HTTP, which is refused beyond loopback unless PlainHTTP.
	CertFile string `mapstructure:"cert_file" yaml:"cert_file" validate:"required_with=KeyFile"`
	KeyFile  string `mapstructure:"key_file" yaml:"key_file" validate:"required_with=CertFile"`
	// PlainHTTP serves without TLS beyond loopback: for a proxy in front that has it.
	PlainHTTP bool `mapstructure:"plain_http" yaml:"plain_http"`
	// UsersFile lists who may sign in; empty: broker.users_file.
	UsersFile string `mapstructure:"users_file" yaml:"users_file"`
	// OpenViewers lets anyone look, without signing in, on a loopback address.
	OpenViewers bool `mapstructure:"open_viewers" yaml:"open_viewers"`
	// SessionLength is for how long somebody stays signed in, 5 min to 30 days.
	SessionLength time.Duration `mapstructure:"session_length" yaml:"session_length" validate:"min=5m,max=720h"`
	OIDC          OIDC          `mapstructure:"oidc" yaml:"oidc"`
}

// OIDC is an OpenID Connect provider with which people may sign in, beside the users file. It is off without an Issuer.
type OIDC struct {
	Issuer string `mapstructure:"issuer" yaml:"issuer" validate:"omitempty,http_url"`
	// ClientID and the secret in ClientSecretFile are what the provider knows Farebeat by.
	ClientID         string `mapstructure:"client_id" yaml:"client_id" validate:"required_with=Issuer"`
	ClientSecretFile string `mapstructure:"client_secret_file" yaml:"client_secret_file" validate:"required_with=Issuer"`
	// RedirectURL is this console's address as a browser has it, with /signin/oidc/callback behind it.
	RedirectURL string `mapstructure:"redirect_url" yaml:"redirect_url" validate:"required_with=Issuer,omitempty,http_url"`
	// RoleClaim is the claim whose values say the role, such as groups.
	RoleClaim string   `mapstructure:"role_claim" yaml:"role_claim"`
	Viewers   []string `mapstructure:"viewers" yaml:"viewers"`
	Operators []string `mapstructure:"operators" yaml:"operators"`
	Admins    []string `mapstructure:"admins" yaml:"admins"`
}

// Enrol configures the certificate authority of `farebeat serve`, and how devices get their certificates from it.
type Enrol struct {
	// Address is where devices join and renew, over TLS; empty: nowhere.
	Address string `mapstructure:"address" yaml:"address" validate:"omitempty,hostname_port"`
	// Names are the host names and IP addresses that devices reach it by, beside the host of Address.
	Names []string `mapstructure:"names" yaml:"names"`
	// CAFile and CAKeyFile are the authority, see `farebeat ca init`; empty: ca.pem and ca.key in Data.
	CAFile    string `mapstructure:"ca_file" yaml:"ca_file"`
	CAKeyFile string `mapstructure:"ca_key_file" yaml:"ca_key_file"`
	// Broker is the URL of the broker that devices are told; empty: the first tls listener, under the first name.
	Broker string `mapstructure:"broker" yaml:"broker" validate:"omitempty,uri"`
	// Validity is for how long a device's certificate holds, 1 h to 10 years. It is renewed from two thirds of it on.
	Validity time.Duration `mapstructure:"validity" yaml:"validity" validate:"min=1h,max=87600h"`
}

// Depot is a depot with a gateway of its own in the yard. Name is what its machines call it in heartbeats.
type Depot struct {
	Name    string `mapstructure:"name" yaml:"name" validate:"required,max=64"`
	Gateway string `mapstructure:"gateway" yaml:"gateway" validate:"required,max=64"` // the gateway's vehicle id
}

// HandExpectation sets a number for a route, each day.
type HandExpectation struct {
	Route string `mapstructure:"route" yaml:"route" validate:"required,max=64"`
	// Hours is one hour of the local clock (7) or a range with the end left out (07-09).
	Hours    string `mapstructure:"hours" yaml:"hours" validate:"required"`
	Expected int    `mapstructure:"expected" yaml:"expected" validate:"min=0,max=100000"`
}

// Client is how edge, machine, simulate, report and collect reach a broker.
type Client struct {
	// Server is a URL: tcp, ssl, ws or wss.
	Server   string `mapstructure:"server" yaml:"server" validate:"required,uri"`
	Username string `mapstructure:"username" yaml:"username"`
	// Password is meant for the environment; PasswordFile for a file.
	Password     Secret `mapstructure:"password" yaml:"password" validate:"excluded_with=PasswordFile"`
	PasswordFile string `mapstructure:"password_file" yaml:"password_file"`
	// CAFile holds the authorities that may sign the broker's certificate; empty: the system's.
	CAFile string `mapstructure:"ca_file" yaml:"ca_file"`
	// CertFile and KeyFile are the client's own certificate and its key, PEM; they may be one file. Each connection reads them anew.
	CertFile string `mapstructure:"cert_file" yaml:"cert_file" validate:"required_with=KeyFile"`
	KeyFile  string `mapstructure:"key_file" yaml:"key_file" validate:"required_with=CertFile"`
	// EnrolURL is where edge and machine renew their certificate, https://host:port; empty: they do not.
	EnrolURL string `mapstructure:"enrol_url" yaml:"enrol_url" validate:"omitempty,http_url"`
}

// Edge configures the agent on a vehicle's gateway.
type Edge struct {
	// Vehicle is the GTFS-realtime vehicle id of the gateway's vehicle.
	Vehicle string `mapstructure:"vehicle" yaml:"vehicle" validate:"max=64"`
	// Radio says how machines are reached: ble:hci0, a Bluetooth adapter (ble:hci0,mtu=23 with a smaller ATT_MTU), or
	// socket:DIR, Unix sockets in a folder of this host.
	Radio string `mapstructure:"radio" yaml:"radio" validate:"omitempty,startswith=ble:|startswith=socket:"`
	// RecollectEvery is how often a machine is read again while its fault stands.
	RecollectEvery time.Duration `mapstructure:"recollect_every" yaml:"recollect_every" validate:"min=1s,max=24h"`
}

// Machine configures the reference payment machine.
type Machine struct {
	ID      string `mapstructure:"id" yaml:"id" validate:"max=64"`
	Vehicle string `mapstructure:"vehicle" yaml:"vehicle" validate:"max=64"`
	Route   string `mapstructure:"route" yaml:"route" validate:"max=64"`
	// KeyFile holds the machine's 32-byte key as hex.
	KeyFile string `mapstructure:"key_file" yaml:"key_file"`
	// FirstEpoch is the first epoch of a journal that is new, as enrolment told it; 0: 1. It must be above all that this machine's id ever had.
	FirstEpoch uint32 `mapstructure:"first_epoch" yaml:"first_epoch"`
	// Radio is where the machine is on air, as in Edge.
	Radio string `mapstructure:"radio" yaml:"radio" validate:"omitempty,startswith=ble:|startswith=socket:"`
	// Depot is where the vehicle is stabled, and Network the mobile network of the machine's SIM; both are told in heartbeats,
	// so that machines lost together are one fault of what they have in common.
	Depot   string `mapstructure:"depot" yaml:"depot" validate:"max=64"`
	Network string `mapstructure:"network" yaml:"network" validate:"max=64"`
	// TapsPerHour is how many simulated passengers pay.
	TapsPerHour float64 `mapstructure:"taps_per_hour" yaml:"taps_per_hour" validate:"min=0,max=100000"`
}

// Default is a configuration for one machine: a broker on loopback that only reads
// without a users file.
func Default() Config {
	return Config{
		Operator: "local",
		TimeZone: "UTC",
		Data:     "farebeat-data",
		Log:      Log{Level: "info"},
		Broker: Broker{
			Listeners:      []Listener{{Name: "mqtt", Kind: "tcp", Address: "127.0.0.1:1883", AnonymousReaders: true}},
			MetricsAddress: "127.0.0.1:9180",
			Limits: Limits{
				ConnectionsPerAddress: 20_000, ConnectsPerAddress: 200, ConnectBurst: 10_000, Handshakes: 8_192,
				ConnectionsPerDevice: 8, ConnectionsPerUser: 256, SessionsPerIdentity: 32,
				ConnectBytes: 16 << 10, PacketBytes: 2 << 20, Subscriptions: 1_024,
				Messages: 1_000, Bytes: 4 << 20, Heartbeats: 10, SlowReader: time.Minute,
				RetainedPerGateway: 70_000, RetainedBytesPerGateway: 512 << 20, RetainedBytes: 4 << 30,
			},
		},
		Fleet: Fleet{
			HeartbeatInterval: 15 * time.Second,
			Tick:              5 * time.Second,
			TicketValidity:    24 * time.Hour,
			KeepMinutes:       14 * 24 * time.Hour,
			Notify:            Notify{Resend: time.Minute, MaxAge: 168 * time.Hour, RefusedFor: 24 * time.Hour},
			Holidays:          []string{}, // as an empty list reads
		},
		Console: Console{
			Address: "127.0.0.1:8080", OpenViewers: true, SessionLength: 12 * time.Hour,
			OIDC: OIDC{RoleClaim: "groups", Viewers: []string{}, Operators: []string{}, Admins: []string{}},
		},
		Enrol:   Enrol{Names: []string{}, Validity: 365 * 24 * time.Hour},
		Client:  Client{Server: "tcp://127.0.0.1:1883"},
		Edge:    Edge{RecollectEvery: time.Minute},
		Machine: Machine{TapsPerHour: 60},
	}
}
