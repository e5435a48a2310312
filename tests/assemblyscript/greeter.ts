// A filter in another language: adds a header each way, and answers in capitals. Built by scripts/setup node and
// the test that loads it.
export * from "@solo-io/proxy-runtime/proxy";
import {
  Context, FilterDataStatusValues, FilterHeadersStatusValues, RootContext, registerRootContext,
  stream_context,
} from "@solo-io/proxy-runtime";
import { BufferTypeValues, get_buffer_bytes } from "@solo-io/proxy-runtime/runtime";

// The toolchain has no call for it.
// @ts-ignore: decorator
@external("env", "proxy_set_buffer_bytes")
declare function proxy_set_buffer_bytes(kind: u32, start: u32, length: u32, bytes: usize, size: usize): u32;

class GreeterRoot extends RootContext {
  createContext(context_id: u32): Context {
    return new Greeter(context_id, this);
  }
}

class Greeter extends Context {
  constructor(context_id: u32, root_context: GreeterRoot) {
    super(context_id, root_context);
  }
  onRequestHeaders(_: u32, end: bool): FilterHeadersStatusValues {
    stream_context.headers.request.add("x-seen-by", this.root_context.getConfiguration());
    return FilterHeadersStatusValues.Continue;
  }
  onResponseHeaders(_: u32, end: bool): FilterHeadersStatusValues {
    stream_context.headers.response.remove("content-length");
    stream_context.headers.response.add("hello", this.root_context.getConfiguration());
    return FilterHeadersStatusValues.Continue;
  }
  onResponseBody(size: usize, end: bool): FilterDataStatusValues {
    if (size > 0) {
      const body = String.UTF8.decode(get_buffer_bytes(BufferTypeValues.HttpResponseBody, 0, size as u32));
      const loud = String.UTF8.encode(body.toUpperCase());
      proxy_set_buffer_bytes(1, 0, size as u32, changetype<usize>(loud), loud.byteLength);
    }
    return FilterDataStatusValues.Continue;
  }
}

registerRootContext((context_id: u32) => { return new GreeterRoot(context_id); }, "greeter");
