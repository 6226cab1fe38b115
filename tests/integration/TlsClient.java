// One line of key=value, tabs between, for each connection that is wanted; one line for each answer.

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.Principal;
import java.security.PrivateKey;
import java.security.Security;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import javax.net.ssl.KeyManager;
import javax.net.ssl.SNIHostName;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManager;
import javax.net.ssl.TrustManagerFactory;
import javax.net.ssl.X509ExtendedKeyManager;
import javax.net.ssl.X509ExtendedTrustManager;

public class TlsClient {
    static final byte[] REQUEST =
        "GET / HTTP/1.1\r\nHost: test.example\r\nConnection: close\r\n\r\n"
            .getBytes(StandardCharsets.US_ASCII);
    static final Map<String, String> SUITES = Map.of(
        "ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256");

    public static void main(String[] arguments) throws Exception {
        // What is too old for Java is to be refused by the server.
        Security.setProperty("jdk.tls.disabledAlgorithms", "SSLv3, NULL, anon");
        var lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = lines.readLine()) != null; ) {
            var asked = new HashMap<String, String>();
            for (String field : line.split("\t")) {
                int at = field.indexOf('=');
                asked.put(field.substring(0, at), field.substring(at + 1));
            }
            var context = context(asked);
            var said = once(asked, context);
            if (!asked.get("again").isEmpty()) {
                said = once(asked, context);
            }
            var answer = new StringBuilder();
            said.forEach((key, value) -> answer.append(key).append('=').append(value).append('\t'));
            System.out.println(answer.toString().strip());
        }
    }

    static SSLContext context(Map<String, String> asked) throws Exception {
        TrustManager[] trust = {new Anybody()};
        if (!asked.get("ca").isEmpty()) {
            var store = KeyStore.getInstance("PKCS12");
            store.load(null, null);
            try (var file = new FileInputStream(asked.get("ca"))) {
                var made = CertificateFactory.getInstance("X.509").generateCertificate(file);
                store.setCertificateEntry("ca", made);
            }
            var factory = TrustManagerFactory.getInstance("PKIX");
            factory.init(store);
            trust = factory.getTrustManagers();
        }
        KeyManager[] keys = null;
        if (!asked.get("certificate").isEmpty()) {
            char[] password = asked.get("password").toCharArray();
            var store = KeyStore.getInstance("PKCS12");
            try (var file = new FileInputStream(asked.get("certificate") + ".p12")) {
                store.load(file, password);
            }
            keys = new KeyManager[] {new Always(store, password)};
        }
        var context = SSLContext.getInstance("TLS");
        context.init(keys, trust, null);
        return context;
    }

    static Map<String, String> once(Map<String, String> asked, SSLContext context) {
        var said = new HashMap<String, String>(Map.of(
            "version", "", "subject", "", "alpn", "", "status", "", "stapled", "", "error", ""));
        int port = Integer.parseInt(asked.get("port"));
        String name = asked.get("name");
        try (var plain = new Socket(InetAddress.getByName("127.0.0.1"), port)) {
            plain.setSoTimeout(20000);
            String host = name.isEmpty() ? "127.0.0.1" : name;
            var sock = (SSLSocket) context.getSocketFactory().createSocket(plain, host, port, true);
            SSLParameters wanted = sock.getSSLParameters();
            wanted.setServerNames(name.isEmpty() ? List.of() : List.of(new SNIHostName(name)));
            if (!asked.get("ca").isEmpty()) {
                wanted.setEndpointIdentificationAlgorithm("HTTPS");
            }
            if (!asked.get("version").isEmpty()) {
                wanted.setProtocols(new String[] {asked.get("version")});
            }
            if (!asked.get("cipher").isEmpty()) {
                wanted.setCipherSuites(new String[] {SUITES.get(asked.get("cipher"))});
            }
            if (!asked.get("alpn").isEmpty()) {
                wanted.setApplicationProtocols(asked.get("alpn").split(","));
            }
            sock.setSSLParameters(wanted);
            sock.startHandshake();
            var session = sock.getSession();
            said.put("version", session.getProtocol());
            String subject = session.getPeerPrincipal().getName();
            said.put("subject", subject.replaceFirst("^.*CN=([^,]*).*$", "$1"));
            said.put("alpn", sock.getApplicationProtocol());
            sock.getOutputStream().write(REQUEST);
            var answer = new String(sock.getInputStream().readAllBytes(), StandardCharsets.ISO_8859_1);
            said.put("status", answer.length() > 12 ? answer.substring(9, 12) : "");
        } catch (Exception error) {
            said.put("error", String.valueOf(error).replaceAll("\\s+", " "));
        }
        return said;
    }

    /** Whoever the server is. */
    static class Anybody extends X509ExtendedTrustManager {
        public void checkClientTrusted(X509Certificate[] c, String t) {}
        public void checkClientTrusted(X509Certificate[] c, String t, Socket s) {}
        public void checkClientTrusted(X509Certificate[] c, String t, SSLEngine e) {}
        public void checkServerTrusted(X509Certificate[] c, String t) {}
        public void checkServerTrusted(X509Certificate[] c, String t, Socket s) {}
        public void checkServerTrusted(X509Certificate[] c, String t, SSLEngine e) {}
        public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
    }

    /** The one certificate, whichever CAs the server names. */
    static class Always extends X509ExtendedKeyManager {
        final X509Certificate[] chain;
        final PrivateKey key;

        Always(KeyStore store, char[] password) throws Exception {
            String alias = store.aliases().nextElement();
            key = (PrivateKey) store.getKey(alias, password);
            var found = store.getCertificateChain(alias);
            chain = java.util.Arrays.copyOf(found, found.length, X509Certificate[].class);
        }

        public String[] getClientAliases(String t, Principal[] i) { return new String[] {"it"}; }
        public String chooseClientAlias(String[] t, Principal[] i, Socket s) { return "it"; }
        public String[] getServerAliases(String t, Principal[] i) { return null; }
        public String chooseServerAlias(String t, Principal[] i, Socket s) { return null; }
        public X509Certificate[] getCertificateChain(String alias) { return chain; }
        public PrivateKey getPrivateKey(String alias) { return key; }
    }
}
